"""Worst-case flatness, Eqs. (5) to (7), against closed forms and NumPy."""

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
    "restarts": 3,
    "input_step_size": 0.15,  # so large that iterates jump about
    "weight_step_size": 0.08,
    "batch_size": 4,
}
ZEROS = {"reference": np.zeros(10)}


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
        linear,
        {"kernel": kernel},
        x,
        np.zeros(3, int),
        KEY,
        ball=RelativeBall(xi),
        threat=linf(epsilon) if robust else None,
        steps=60,
        restarts=2,
        input_step_size=0.02,
        weight_step_size=xi,
        batch_size=1,
    )
    moved = x.reshape(3, -1) + (epsilon * np.sign(kernel) if robust else 0)
    best = moved @ kernel
    np.testing.assert_allclose(found.reference_losses, softplus(best), rtol=1e-9)
    best = best + xi * np.linalg.norm(kernel) * np.linalg.norm(moved, axis=1)
    np.testing.assert_allclose(found.samples[0], softplus(best), rtol=1e-9)


# The slow reference


@pytest.mark.parametrize(("epsilon", "weight_step"), [(None, 0.01), (0.1, 0.08)])
def test_agrees_with_numpy_number_by_number(
    problem, tanh_network, draws, numpy_worst_case, epsilon, weight_step
):
    """Ten examples in batches of four: the two that fill up the last do not count."""
    apply_fn, params, x, y = problem
    threat = epsilon and linf(epsilon)
    settings = SETTINGS | {"threat": threat, "weight_step_size": weight_step}
    found = worst_case(apply_fn, params, x, y, KEY, **settings)
    expected, where = np.zeros(10), []
    for batch, rows in enumerate(np.split(np.arange(10), [4, 8])):
        begin = [draws(BALL, threat, KEY, params, x, batch, restart) for restart in range(3)]
        expected[rows], step = numpy_worst_case(
            tanh_network,
            params,
            x[rows],
            y[rows],
            [(nu, delta[rows]) for nu, delta in begin],
            xi=0.05,
            epsilon=epsilon,
            steps=4,
            input_step=0.15,
            weight_step=weight_step,
        )
        where.append(step)
    assert found.samples.shape == (1, 10)
    np.testing.assert_allclose(found.samples[0], expected, rtol=1e-9)
    value = expected.mean() - found.reference_losses.mean()
    np.testing.assert_allclose(found.value, value, rtol=1e-9)
    if epsilon:
        assert min(where) < 4  # the best iterate is not always the last


# Properties


def test_padding_does_not_count(linear_problem):
    """The first batch is the same in both runs, once full and once filled up."""
    apply_fn, params, x, y = linear_problem
    settings = SETTINGS | {"reference": np.zeros(4)}
    full = worst_case(apply_fn, params, x[:4], y[:4], KEY, **settings)
    padded = worst_case(apply_fn, params, x[:4], y[:4], KEY, **settings | {"batch_size": 8})
    np.testing.assert_allclose(padded.samples, full.samples, rtol=1e-9)
    np.testing.assert_allclose(padded.value, full.value, rtol=1e-9)


@pytest.mark.parametrize("fewer", [{"steps": 0}, {"steps": 1}, {"restarts": 1}])
def test_more_steps_and_more_restarts_never_lower_the_loss(linear_problem, fewer):
    """No result is below the loss at the random start, which zero steps return."""
    apply_fn, params, x, y = linear_problem
    few, many = (
        batch_means(worst_case(apply_fn, params, x, y, KEY, **SETTINGS | ZEROS | settings))
        for settings in (fewer, {})
    )
    assert (many >= few - 1e-12).all()
    assert (many > few + 1e-6).any()


def test_iterates_stay_in_both_balls_and_in_the_box(problem):
    apply_fn, params, x, y = problem
    seen = []

    def watched(params, x):
        jax.debug.callback(lambda *point: seen.append(jax.device_get(point)), params, x)
        return apply_fn(params, x)

    settings = SETTINGS | {"steps": 6, "reference": np.zeros(4)}
    worst_case(watched, params, x[:4], y[:4], KEY, **settings)
    jax.effects_barrier()
    assert len(seen) >= 3 * 7
    furthest = 0.0
    for moved, inputs in seen:  # in float32, as callbacks get them
        assert (np.abs(inputs - x[:4]) <= 0.1 + 1e-6).all()
        assert (inputs >= -1e-6).all()
        assert (inputs <= 1 + 1e-6).all()
        np.testing.assert_allclose(moved["norm"]["scale"], params["norm"]["scale"], rtol=1e-6)
        for layer in ("hidden", "out"):
            for name, w in params[layer].items():
                distance = np.linalg.norm(moved[layer][name] - w) / np.linalg.norm(w)
                assert distance <= 0.05 * (1 + 1e-4)
                furthest = max(furthest, distance)
    assert furthest > 0.0499  # the weights did come to the border


def test_layers_without_gradient_or_without_weights_make_no_nan(problem, tanh_network):
    _, params, x, y = problem

    def logits(params, x):
        dead = jax.nn.relu(x.reshape(x.shape[0], -1) @ jnp.abs(params["dead"]["kernel"]) - 1e6)
        shifted = x + params["zero"]["bias"]
        return tanh_network.logits(params, shifted) + dead

    params = params | {"dead": {"kernel": np.ones((48, 4))}, "zero": {"bias": np.zeros(3)}}
    found = worst_case(logits, params, x, y, KEY, **SETTINGS | ZEROS)
    assert np.isfinite(found.samples).all()


def test_a_flat_loss_is_flat(linear_problem):
    """Nowhere a gradient, for weights or inputs."""
    _, params, x, y = linear_problem
    for threat in (l2(0.1), None):
        found = worst_case(
            lambda params, x: jnp.zeros((x.shape[0], 4)),
            params,
            x,
            y,
            KEY,
            **SETTINGS | {"threat": threat},
        )
        assert found.value == 0
        np.testing.assert_allclose(found.samples, np.log(4))


def test_a_ball_without_radius_is_flat_for_the_clean_loss(linear_problem):
    apply_fn, params, x, y = linear_problem
    settings = SETTINGS | {"ball": RelativeBall(0.0), "threat": None}
    found = worst_case(apply_fn, params, x, y, KEY, **settings)
    np.testing.assert_allclose(found.samples[0], found.reference_losses, rtol=1e-12)
    assert abs(found.value) < 1e-12


def test_a_ball_without_radius_leaves_the_attack_on_the_inputs(linear_problem):
    """With one example a batch that is PGD from the same random starts."""
    apply_fn, params, x, y = linear_problem
    settings = SETTINGS | {"ball": RelativeBall(0.0), "batch_size": 1}
    _, input_key, _ = jax.random.split(KEY, 3)
    attack = PGD(linf(0.1), steps=4, step_size=0.15, restarts=3)
    pgd = reference(apply_fn, params, x, y, input_key, attack=attack, batch_size=1)
    found = worst_case(apply_fn, params, x, y, KEY, **settings, reference=pgd)
    np.testing.assert_allclose(found.samples[0], pgd, rtol=1e-9)
    assert abs(found.value) < 1e-9


@pytest.mark.parametrize("threat", [None, linf(8 / 255)])
def test_scaling_convolutions_changes_nothing(residual_network, threat):
    """Fig. F and Tab. A: all convolutions are followed by batch normalisation."""
    settings = SETTINGS | {"threat": threat, "steps": 2, "reference": np.zeros(6)}
    plain, half, double = (
        worst_case(*residual_network(s), KEY, **settings) for s in (1.0, 0.5, 2.0)
    )
    np.testing.assert_allclose(half.samples, plain.samples, rtol=1e-6)
    np.testing.assert_allclose(double.samples, plain.samples, rtol=1e-6)


# What must not matter


@pytest.mark.parametrize("threat", [None, linf(0.1)])
def test_devices_do_not_matter(linear_problem, four_devices, threat):
    apply_fn, params, x, y = linear_problem
    settings = SETTINGS | ZEROS | {"threat": threat}
    found, expected = (
        worst_case(apply_fn, params, x, y, KEY, **settings, mesh=mesh)
        for mesh in (four_devices, None)
    )
    np.testing.assert_array_equal(found.samples, expected.samples)


def test_compiled_and_step_by_step_are_the_same(linear_problem):
    apply_fn, params, x, y = linear_problem
    found, other = (
        worst_case(apply_fn, params, x, y, KEY, **SETTINGS | ZEROS, compiled=compiled)
        for compiled in (True, False)
    )
    np.testing.assert_allclose(other.samples, found.samples, rtol=1e-9)


def test_the_reference_can_be_given(linear_problem):
    apply_fn, params, x, y = linear_problem
    given = np.arange(10.0)
    found = worst_case(apply_fn, params, x, y, KEY, **SETTINGS, reference=given)
    np.testing.assert_array_equal(found.reference_losses, given)
    own = worst_case(apply_fn, params, x, y, KEY, **SETTINGS)
    np.testing.assert_array_equal(own.samples, found.samples)
    attack = PGD(linf(0.1), steps=4, step_size=0.15, restarts=3)
    key = jax.random.split(KEY, 3)[2]
    expected = reference(apply_fn, params, x, y, key, attack=attack, batch_size=4)
    np.testing.assert_allclose(own.reference_losses, expected, rtol=1e-12)


def test_tells_how_far_it_is(linear_problem):
    apply_fn, params, x, y = linear_problem
    done = []
    worst_case(apply_fn, params, x, y, KEY, **SETTINGS, on_batch=done.append)
    assert done == [4, 8, 10]


def test_checkpoints_share_one_compilation(linear_problem):
    apply_fn, params, x, y = linear_problem
    traces, counts = [], []

    def logits(params, x):
        traces.append(1)
        return apply_fn(params, x)

    for s in (1.0, 0.9, 0.8):
        scaled = jax.tree.map(lambda w, s=s: s * w, params)
        worst_case(logits, scaled, x, y, KEY, **SETTINGS)
        counts.append(len(traces))
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("threat", [linf(0.1), None])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_change_nothing(linear_problem, threat, chunk):
    """Batches of 4 in chunks of 1, of 2 (3 does not divide it), and whole; the last is partial."""
    apply_fn, params, x, y = linear_problem
    settings = {**SETTINGS, **ZEROS, "threat": threat}
    found = worst_case(apply_fn, params, x, y, KEY, **settings, chunk=chunk)
    expected = worst_case(apply_fn, params, x, y, KEY, **settings)
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps >= 0, restarts >= 1 and chunk >= 1, got -1, 3 and None"),
        ({"restarts": 0}, "restarts >= 1 and chunk >= 1, got 4, 0 and None"),
        ({"chunk": 0}, "got 4, 3 and 0"),
        ({"reference": np.zeros(7)}, "reference has 7 losses for 10 examples"),
        ({"batch_size": 0}, "positive batch size"),
    ],
)
def test_bad_settings_are_told(linear_problem, settings, message):
    apply_fn, params, x, y = linear_problem
    with pytest.raises(ValueError, match=message):
        worst_case(apply_fn, params, x, y, KEY, **SETTINGS | settings)
