"""Losses along directions, against a linear model and NumPy."""

import jax
import numpy as np
import pytest

from rfm.attacks import PGD
from rfm.flatness import adversarial_directions, landscape, reference, surface, worst_case
from rfm.perturb import RelativeBall
from rfm.threat import linf

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

KEY = jax.random.key(7)
ATTACK = PGD(linf(0.1), 3, 0.06)


def direction_of(problem, ball=None, seed=0):
    ball = ball or RelativeBall(0.5)
    return ball.random_direction(jax.random.key(seed), problem.params)


def test_clean_loss_of_a_linear_model(linear_problem):
    direction = direction_of(linear_problem)
    found = landscape(linear_problem.apply_fn, linear_problem.params, direction,
                      *linear_problem[2:], KEY, attack=None, batch_size=4)  # fmt: skip
    assert found.losses.shape == (51, 10)
    np.testing.assert_allclose(found.steps, np.linspace(-1, 1, 51))
    for step, losses in zip(found.steps, found.losses, strict=True):
        moved = linear_problem.params["kernel"] + step * np.asarray(direction["kernel"])
        score = linear_problem.x.reshape(10, -1) @ moved
        expected = np.logaddexp(0, np.where(linear_problem.y, -score, score))
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(found.mean, found.losses.mean(1))
    norm = np.linalg.norm(linear_problem.params["kernel"])
    assert found.length == pytest.approx(0.5 * norm)


def test_robust_loss_in_the_middle_is_the_reference(linear_problem):
    """Also: inputs are attacked anew at every step, with the same draws."""
    direction, problem = direction_of(linear_problem), linear_problem
    found = landscape(problem.apply_fn, problem.params, direction, *problem[2:], KEY,
                      attack=ATTACK, steps=[-1, 0, 0.5, 1], batch_size=4)  # fmt: skip
    expected = reference(problem.apply_fn, problem.params, *problem[2:], KEY, attack=ATTACK)
    np.testing.assert_allclose(found.losses[1], expected, rtol=1e-9)
    moved = jax.tree.map(lambda w, d: w + 0.5 * d, problem.params, direction)
    expected = reference(problem.apply_fn, moved, *problem[2:], KEY, attack=ATTACK)
    np.testing.assert_allclose(found.losses[2], expected, rtol=1e-6)


def test_a_surface_holds_the_lines_of_its_directions(problem):
    directions = direction_of(problem, seed=1), direction_of(problem, seed=2)
    model, steps = (problem.apply_fn, problem.params), [-1.0, 0.0, 1.0]
    plane = surface(*model, directions, *problem[2:], KEY, attack=None, steps=steps)
    assert plane.losses.shape == (3, 3, 10)
    assert plane.mean.shape == (3, 3)
    for axis, direction in enumerate(directions):
        line = landscape(*model, direction, *problem[2:], KEY, attack=None, steps=steps)
        middle = plane.losses[:, 1] if axis == 0 else plane.losses[1]
        np.testing.assert_allclose(middle, line.losses, rtol=1e-9)
        assert plane.lengths[axis] == pytest.approx(line.length)


@pytest.mark.parametrize("per", ["layer", "filter"])
def test_directions_have_the_length_they_should_in_every_layer(problem, per):
    ball = RelativeBall(0.025, per=per)
    direction = ball.random_direction(KEY, problem.params)
    params = {k: v for k, v in problem.params.items() if "norm" not in k}
    assert len(params) < len(problem.params)
    kept = {k: direction[k] for k in params}
    for d, w in zip(jax.tree.leaves(kept), jax.tree.leaves(params), strict=True):
        axes = tuple(range(d.ndim - 1)) if per == "filter" and d.ndim > 1 else None
        np.testing.assert_allclose(
            np.linalg.norm(d, axis=axes) if axes is None else np.sqrt((d**2).sum(axes)),
            0.025 * (np.linalg.norm(w) if axes is None else np.sqrt((w**2).sum(axes))),
            rtol=1e-6,
        )


def test_per_layer_and_per_filter_directions_are_equally_long(problem):
    """Over the same leaves: Section C's 33.13 and 21.49 cannot be of the same leaves."""
    lengths = [
        landscape(problem.apply_fn, problem.params, direction_of(problem, RelativeBall(1, per)),
                  *problem[2:], KEY, attack=None, steps=[0.0]).length
        for per in ("layer", "filter")
    ]  # fmt: skip
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-6)


def test_adversarial_directions_are_what_the_worst_case_finds(linear_problem, four_devices):
    problem, ball = linear_problem, RelativeBall(0.05)
    settings = {"ball": ball, "steps": 4, "restarts": 3, "weight_step_size": 0.02}
    found = adversarial_directions(*problem, KEY, threat=linf(0.05), **settings)
    assert len(found) == 3
    norm = np.linalg.norm(problem.params["kernel"])
    for direction in found:
        assert np.linalg.norm(direction["kernel"]) <= 0.05 * norm * (1 + 1e-6)

    def mean_loss(nu):
        moved = jax.tree.map(np.add, problem.params, jax.tree.map(np.asarray, nu))
        return reference(problem.apply_fn, moved, *problem[2:], KEY, attack=None).mean()

    at_start = adversarial_directions(*problem, KEY, threat=None, **(settings | {"steps": 0}))
    at_end = adversarial_directions(*problem, KEY, threat=None, **settings)
    for before, after in zip(at_start, at_end, strict=True):
        assert mean_loss(after) > mean_loss(before)
    worst = worst_case(*problem, KEY, threat=None, batch_size=16, **settings)
    assert max(map(mean_loss, at_end)) == pytest.approx(worst.perturbed, rel=1e-9)
    several = adversarial_directions(*problem, KEY, threat=None, mesh=four_devices, **settings)
    jax.tree.map(np.testing.assert_array_equal, several, at_end)


def test_checkpoints_and_directions_share_one_compilation(linear_problem):
    traced = []

    def model(params, x):
        traced.append(1)
        return linear_problem.apply_fn(params, x)

    for seed in range(3):
        direction = direction_of(linear_problem, seed=seed)
        landscape(model, linear_problem.params, direction, *linear_problem[2:], KEY,
                  attack=None, steps=[0.0, 1.0], batch_size=4)  # fmt: skip
        if not seed:
            once = len(traced)
    assert len(traced) == once


def test_devices_do_not_matter(linear_problem, four_devices):
    direction, problem = direction_of(linear_problem), linear_problem
    one, several = (
        landscape(problem.apply_fn, problem.params, direction, *problem[2:], KEY,
                  attack=ATTACK, steps=[0.3], batch_size=4, **more)
        for more in ({}, {"mesh": four_devices})
    )  # fmt: skip
    np.testing.assert_array_equal(one.losses, several.losses)


def test_tells_how_far_it_is(linear_problem):
    told, problem = [], linear_problem
    landscape(problem.apply_fn, problem.params, direction_of(problem), *problem[2:], KEY,
              attack=None, steps=[0, 1, 2], on_step=told.append)  # fmt: skip
    assert told == [1, 2, 3]
