"""Worst-case flatness, Eqs. (5) to (7), against closed forms and NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm.attacks import PGD
from rfm.flatness import reference, worst_case
from rfm.perturb import RelativeBall
from rfm.threat import l2, linf

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

KEY = jax.random.key(3)
BALL = RelativeBall(0.05)
SETTINGS = {
    "ball": BALL,
    "threat": linf(0.1),
    "steps": 4,
    "restarts": 2,
    "input_step_size": 0.05,
    "weight_step_size": 0.02,
    "batch_size": 4,
}


def softplus(score):
    return np.logaddexp(0, score)


def batch_means(found) -> np.ndarray:
    starts = range(0, found.samples.shape[1], found.batch_size)
    return np.array([found.samples[0, i : i + found.batch_size].mean() for i in starts])


# Closed forms


@pytest.mark.parametrize("robust", [False, True])
def test_a_linear_model(linear, crops, robust):
    """One example a batch: inputs go along sign(w), weights along the moved input."""
    x, _ = crops(3, 2)
    x, rng, epsilon, xi = 0.3 + 0.4 * x.astype(np.float64), np.random.default_rng(0), 0.1, 0.05
    kernel = rng.choice([-1, 1], 12) * rng.uniform(0.5, 1.0, 12)  # no sign can change in the ball
    found = worst_case(
        linear, {"kernel": kernel}, x, np.zeros(3, int), KEY,
        ball=RelativeBall(xi), threat=linf(epsilon) if robust else None, steps=60, restarts=2,
        input_step_size=0.02, weight_step_size=xi, batch_size=1,
    )  # fmt: skip
    moved = x.reshape(3, -1) + (epsilon * np.sign(kernel) if robust else 0)
    best = moved @ kernel
    np.testing.assert_allclose(found.reference_losses, softplus(best), rtol=1e-9)
    best = best + xi * np.linalg.norm(kernel) * np.linalg.norm(moved, axis=1)
    np.testing.assert_allclose(found.samples[0], softplus(best), rtol=1e-9)


# The slow reference


@pytest.mark.parametrize("weight_step_size", [0.01, 0.08])
@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_agrees_with_numpy_number_by_number(
    problem, draws, numpy_worst_case, epsilon, weight_step_size
):
    """Ten examples in batches of four: the two that fill up the last do not count.

    Input steps so large that iterates jump about, and the best is not always the last.
    """
    network, params, x, y = problem
    threat, settings = epsilon and linf(epsilon), {"steps": 4, "restarts": 3}
    found = worst_case(
        network.logits, params, x, y, KEY, ball=BALL, threat=threat, **settings,
        input_step_size=0.15, weight_step_size=weight_step_size, batch_size=4,
    )  # fmt: skip
    expected, where = np.zeros(10), []
    for batch, rows in enumerate(np.split(np.arange(10), [4, 8])):
        begin = [draws(BALL, threat, KEY, params, x, batch, rows, restart) for restart in range(3)]
        expected[rows], step = numpy_worst_case(
            network, params, x[rows], y[rows], begin,
            xi=0.05, epsilon=epsilon, steps=4, input_step=0.15, weight_step=weight_step_size,
        )  # fmt: skip
        where.append(step)
    assert found.samples.shape == (1, 10)
    np.testing.assert_allclose(found.samples[0], expected, rtol=1e-9)
    value = expected.mean() - found.reference_losses.mean()
    np.testing.assert_allclose(found.value, value, rtol=1e-9)
    assert min(where) < 4 or epsilon is None


# Properties


def test_padding_does_not_count(problem):
    """The first batch is the same in both runs, once full and once filled up."""
    network, params, x, y = problem
    full = worst_case(network.logits, params, x[:5], y[:5], KEY, **SETTINGS | {"batch_size": 5})
    padded = worst_case(network.logits, params, x[:5], y[:5], KEY, **SETTINGS | {"batch_size": 8})
    np.testing.assert_allclose(padded.samples, full.samples, rtol=1e-9)
    np.testing.assert_allclose(padded.value, full.value, rtol=1e-9)


def test_more_steps_and_more_restarts_never_lower_the_loss(problem):
    """No result is below the loss at the random start, which zero steps return."""
    network, params, x, y = problem
    common = SETTINGS | {"input_step_size": 0.15, "weight_step_size": 0.1}
    for name, values in [("steps", (0, 1, 5)), ("restarts", (1, 2, 5))]:
        found = [
            batch_means(worst_case(network.logits, params, x, y, KEY, **common | {name: value}))
            for value in values
        ]
        for few, many in itertools.pairwise(found):
            assert (many >= few - 1e-12).all(), name
        assert (found[-1] > found[0] + 1e-6).any(), name


def test_iterates_stay_in_both_balls_and_in_the_box(problem):
    network, params, x, y = problem
    seen = []

    def watched(params, x):
        jax.debug.callback(lambda *point: seen.append(jax.device_get(point)), params, x)
        return network.logits(params, x)

    worst_case(
        watched, params, x[:4], y[:4], KEY, reference=np.zeros(4),
        **SETTINGS | {"steps": 6, "input_step_size": 0.07, "weight_step_size": 0.03},
    )  # fmt: skip
    jax.effects_barrier()
    assert len(seen) >= 2 * 7
    furthest = 0.0
    for moved, inputs in seen:
        assert (np.abs(inputs - x[:4]) <= 0.1 + 1e-12).all()
        assert (inputs >= -1e-12).all()
        assert (inputs <= 1 + 1e-12).all()
        np.testing.assert_array_equal(moved["norm"]["scale"], params["norm"]["scale"])
        for layer in ("hidden", "out"):
            for name, w in params[layer].items():
                distance = np.linalg.norm(moved[layer][name] - w) / np.linalg.norm(w)
                assert distance <= 0.05 * (1 + 1e-9)
                furthest = max(furthest, distance)
    assert furthest > 0.0499  # the weights did come to the border


def test_layers_without_gradient_or_without_weights_make_no_nan(problem, tanh_network):
    _, params, x, y = problem

    def logits(params, x):
        dead = jax.nn.relu(x.reshape(x.shape[0], -1) @ jnp.abs(params["dead"]["kernel"]) - 1e6)
        shifted = x + params["zero"]["bias"]
        return tanh_network.logits(params, shifted) + dead

    params = params | {"dead": {"kernel": np.ones((48, 4))}, "zero": {"bias": np.zeros(3)}}
    found = worst_case(logits, params, x, y, KEY, **SETTINGS)
    assert np.isfinite(found.samples).all()
    assert found.value > 0


def test_a_flat_loss_is_flat(problem):
    """Nowhere a gradient, for weights or inputs."""
    _, params, x, y = problem
    for threat in (linf(0.1), l2(0.1), None):
        found = worst_case(
            lambda params, x: jnp.zeros((x.shape[0], 4)), params, x, y, KEY,
            **SETTINGS | {"threat": threat},
        )  # fmt: skip
        assert found.value == 0
        np.testing.assert_allclose(found.samples, np.log(4))


def test_a_ball_without_radius_is_flat_for_the_clean_loss(problem):
    network, params, x, y = problem
    settings = SETTINGS | {"ball": RelativeBall(0.0), "threat": None}
    found = worst_case(network.logits, params, x, y, KEY, **settings)
    np.testing.assert_allclose(found.samples[0], found.reference_losses, rtol=1e-12)
    assert abs(found.value) < 1e-12


def test_a_ball_without_radius_leaves_the_attack_on_the_inputs(problem):
    """With one example a batch that is PGD from the same random starts."""
    network, params, x, y = problem
    settings = SETTINGS | {"ball": RelativeBall(0.0), "batch_size": 1}
    _, input_key, _ = jax.random.split(KEY, 3)
    attack = PGD(linf(0.1), steps=4, step_size=0.05, restarts=2)
    pgd = reference(network.logits, params, x, y, input_key, attack=attack, batch_size=1)
    found = worst_case(network.logits, params, x, y, KEY, **settings, reference=pgd)
    np.testing.assert_allclose(found.samples[0], pgd, rtol=1e-9)
    assert abs(found.value) < 1e-9


@pytest.mark.parametrize("s", [0.5, 2.0])
@pytest.mark.parametrize("threat", [None, linf(8 / 255)])
def test_scaling_convolutions_changes_nothing(residual_network, threat, s):
    """Fig. F and Tab. A: all convolutions are followed by batch normalisation."""
    (apply_fn, params, x, y), (scaled_fn, scaled, *_) = residual_network(1.0), residual_network(s)
    settings = SETTINGS | {"threat": threat, "steps": 2}
    found = worst_case(apply_fn, params, x, y, KEY, **settings)
    other = worst_case(scaled_fn, scaled, x, y, KEY, **settings)
    np.testing.assert_allclose(other.samples, found.samples, rtol=1e-6)
    np.testing.assert_allclose(other.value, found.value, rtol=1e-6)
    assert found.value > 1e-2


# What must not matter


@pytest.mark.parametrize("threat", [None, linf(0.1), l2(0.5)])
def test_devices_do_not_matter(problem, spread, threat):
    network, params, x, y = problem
    settings = SETTINGS | {"threat": threat, "batch_size": 8, "reference": np.zeros(10)}
    found, expected = (
        worst_case(network.logits, params, x, y, KEY, **settings, place=place)
        for place in (spread, jax.device_put)
    )
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-9)


def test_compiled_and_step_by_step_are_the_same(problem):
    network, params, x, y = problem
    found, other = (
        worst_case(network.logits, params, x, y, KEY, **SETTINGS, compiled=compiled)
        for compiled in (True, False)
    )
    np.testing.assert_allclose(other.samples, found.samples, rtol=1e-9)


def test_the_reference_can_be_given(problem):
    network, params, x, y = problem
    given = np.arange(10.0)
    found = worst_case(network.logits, params, x, y, KEY, **SETTINGS, reference=given)
    np.testing.assert_array_equal(found.reference_losses, given)
    own = worst_case(network.logits, params, x, y, KEY, **SETTINGS)
    np.testing.assert_array_equal(own.samples, found.samples)
    attack = PGD(linf(0.1), steps=4, step_size=0.05, restarts=2)
    key = jax.random.split(KEY, 3)[2]
    expected = reference(network.logits, params, x, y, key, attack=attack, batch_size=4)
    np.testing.assert_allclose(own.reference_losses, expected, rtol=1e-12)


def test_tells_how_far_it_is(problem):
    network, params, x, y = problem
    done = []
    worst_case(network.logits, params, x, y, KEY, **SETTINGS, on_batch=done.append)
    assert done == [4, 8, 10]


def test_checkpoints_share_one_compilation(problem):
    network, params, x, y = problem
    traces, counts = [], []

    def logits(params, x):
        traces.append(1)
        return network.logits(params, x)

    for s in (1.0, 0.9, 0.8):
        scaled = jax.tree.map(lambda w, s=s: s * w, params)
        worst_case(logits, scaled, x, y, KEY, **SETTINGS)
        counts.append(len(traces))
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps >= 0 and restarts >= 1, got -1 and 2"),
        ({"restarts": 0}, "steps >= 0 and restarts >= 1, got 4 and 0"),
        ({"reference": np.zeros(7)}, "reference has 7 losses for 10 examples"),
        ({"batch_size": 0}, "positive batch size"),
    ],
)
def test_bad_settings_are_told(problem, settings, message):
    network, params, x, y = problem
    with pytest.raises(ValueError, match=message):
        worst_case(network.logits, params, x, y, KEY, **SETTINGS | settings)
