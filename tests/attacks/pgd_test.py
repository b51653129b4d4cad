"""Projected gradient descent, against closed forms and a slow attack in NumPy."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rfm import losses
from rfm.attacks import APGD, PGD, fgsm, pgd
from rfm.threat import l2, linf
from rfm.types import bind, example_keys

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(7)
PIXELS = st.floats(0, 1, width=32, allow_subnormal=False)
THREATS = {"linf": linf, "l2": l2}


def linear(weight, x):
    """Two classes; the loss of label 0 grows with weight . x, that of label 1 falls."""
    score = x.reshape(x.shape[0], -1) @ weight.ravel()
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


def restart_keys(key, n: int, restarts: int):
    """Restart r of example i draws with ``fold_in(key of i, r)``."""
    keys = example_keys(key, n)
    return [jax.vmap(jax.random.fold_in, (0, None))(keys, r) for r in range(restarts)]


def starts(threat, key, x, restarts: int) -> np.ndarray:
    """The library's own random draws, for references that share nothing else with it."""
    draw = jax.vmap(lambda key: threat.sample(key, (1, *x.shape[1:]))[0])
    return np.stack([draw(keys) for keys in restart_keys(key, len(x), restarts)])


@pytest.fixture
def problem(crops, tanh_network):
    """A small network at the centres of real images, float64."""
    x, y = crops(6, 4)
    x = x.astype(np.float64)
    network = tanh_network(48)
    return network, bind(network.logits, network.params), x, y % 4


# Closed forms


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("epsilon", [8 / 255, 0.4])
def test_linear_model_linf(crops, x64, epsilon, random_start):
    """The optimum is x + epsilon sign(w), cut to the box; label 1 goes the other way."""
    x, y = crops(8, 4)
    weight, y = np.random.default_rng(0).normal(size=x.shape[1:]), y % 2
    attack = PGD(linf(epsilon), 10, epsilon / 4, random_start=random_start)
    found = attack(bind(linear, weight), x.astype(np.float64), y, KEY)
    sign = np.where(y == 0, 1, -1).reshape(-1, 1, 1, 1)
    best = np.clip(x + epsilon * sign * np.sign(weight), 0, 1)
    np.testing.assert_allclose(found.x, best, atol=1e-12)
    scores = sign[:, 0, 0, 0] * (best.reshape(8, -1) @ weight.ravel())
    np.testing.assert_allclose(found.loss, np.logaddexp(0, scores), rtol=1e-12)
    np.testing.assert_array_equal(found.success, scores > 0)
    assert {*y.tolist()} == {0, 1}


def test_linear_model_l2(crops, x64):
    """The optimum is x + epsilon w / ||w|| where the box is far away."""
    x, y = crops(8, 4)
    x, y, epsilon = 0.3 + 0.4 * x.astype(np.float64), y % 2, 0.5
    weight = np.random.default_rng(0).normal(size=x.shape[1:])
    found = PGD(l2(epsilon), 60, epsilon / 2)(bind(linear, weight), x, y, KEY)
    sign = np.where(y == 0, 1, -1).reshape(-1, 1, 1, 1)
    best = x + epsilon * sign * weight / np.linalg.norm(weight)
    np.testing.assert_allclose(found.x, best, atol=1e-9)


def test_steps_have_the_length_asked_for(crops, x64):
    """Far from all borders, three steps go three step sizes."""
    x, y = crops(3, 4)
    x, weight = 0.3 + 0.4 * x.astype(np.float64), np.random.default_rng(0).normal(size=48)
    unit = weight / np.linalg.norm(weight)
    for threat, direction in [(linf(0.1), np.sign(weight)), (l2(0.1), unit)]:
        found = PGD(threat, 3, 0.007, random_start=False)(bind(linear, weight), x, 0 * y, KEY)
        np.testing.assert_allclose((found.x - x).reshape(3, -1) - 0.021 * direction, 0, atol=1e-12)


# The slow reference


@pytest.mark.parametrize("momentum", [0.0, 0.75])
@pytest.mark.parametrize(("norm", "epsilon", "step_size"), [("linf", 0.1, 0.08), ("l2", 0.8, 0.5)])
def test_agrees_with_numpy_number_by_number(problem, x64, norm, epsilon, step_size, momentum):
    """With steps so large that iterates jump about: the worst one is any of them."""
    network, logits_fn, x, y = problem
    threat = THREATS[norm](epsilon)
    attack = PGD(threat, 5, step_size, restarts=3, momentum=momentum)
    found = attack(logits_fn, x, y, KEY)
    expected = network.pgd(
        network.params,
        x,
        y,
        starts(threat, KEY, x, 3),
        norm=norm,
        epsilon=epsilon,
        steps=5,
        step_size=step_size,
        momentum=momentum,
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert np.mean(found.success) > 0


def test_agrees_with_numpy_without_random_start(problem, x64):
    network, logits_fn, x, y = problem
    found = pgd(logits_fn, x, y, KEY, threat=linf(0.1), steps=4, step_size=0.03, random_start=False)
    zero = np.zeros((1, *x.shape))
    expected = network.pgd(
        network.params, x, y, zero, norm="linf", epsilon=0.1, steps=4, step_size=0.03
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


# The worst iterate


def test_without_steps_the_random_start_counts(problem, x64):
    network, logits_fn, x, y = problem
    found = PGD(linf(0.1), 0, 0.0)(logits_fn, x, y, KEY)
    start = np.clip(x + starts(linf(0.1), KEY, x, 1)[0], 0, 1)
    np.testing.assert_allclose(found.x, start, atol=1e-15)
    np.testing.assert_allclose(found.loss, losses.cross_entropy(logits_fn(start), y), rtol=1e-12)


def test_the_start_counts_if_all_steps_go_down(x64):
    """From just beside the summit every step of this size leads far down the other side."""

    def summit(x):
        score = -((x - 0.49) ** 2).sum((1, 2, 3))
        return jnp.stack([jnp.zeros_like(score), 20 * score], axis=1)

    x, y = jnp.full((2, 2, 2, 1), 0.5), jnp.zeros(2, int)
    found = PGD(linf(0.2), 3, 0.15, random_start=False)(summit, x, y, KEY)
    np.testing.assert_array_equal(found.x, x)


def test_more_restarts_never_lower_the_loss(problem, x64):
    """Restart r has its own key whatever their number: few are a part of many."""
    _, logits_fn, x, y = problem
    found = [
        PGD(linf(0.1), 2, 0.02, restarts=restarts)(logits_fn, x, y, KEY) for restarts in (1, 2, 5)
    ]
    for few, many in itertools.pairwise(found):
        assert (many.loss >= few.loss - 1e-12).all()
        assert (many.success >= few.success).all()
    assert (found[-1].loss > found[0].loss + 1e-6).any()


def test_more_steps_never_lower_the_loss(problem, x64):
    _, logits_fn, x, y = problem
    found = [PGD(linf(0.1), steps, 0.08)(logits_fn, x, y, KEY) for steps in (0, 1, 4)]
    for few, many in itertools.pairwise(found):
        assert (many.loss >= few.loss - 1e-12).all()
        assert (many.success >= few.success).all()


def test_the_loss_returned_is_that_of_the_inputs_returned(problem, x64):
    _, logits_fn, x, y = problem
    found = PGD(linf(0.1), 3, 0.05, restarts=2)(logits_fn, x, y, KEY)
    np.testing.assert_allclose(found.loss, losses.cross_entropy(logits_fn(found.x), y), rtol=1e-9)


# Success


def confidence(logits, labels):
    """Ascending this leads away from errors."""
    return -losses.cross_entropy(logits, labels)


def test_success_is_tracked_apart_from_the_highest_loss(x64):
    """The iterate of highest loss is right, the random start was often wrong."""
    x, y = np.full((20, 1, 1, 1), 0.5), np.zeros(20, int)

    def threshold(x):
        score = x[:, 0, 0, 0] - 0.5
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    found = PGD(linf(0.2), 10, 0.1, loss=confidence)(threshold, x, y, KEY)
    np.testing.assert_allclose(found.x, x - 0.2, atol=1e-12)
    assert not losses.is_misclassified(threshold(found.x), y).any()
    started_wrong = starts(linf(0.2), KEY, x, 1)[0].ravel() > 0
    np.testing.assert_array_equal(found.success, started_wrong)
    assert 0 < started_wrong.sum() < 20


def test_success_of_any_restart_counts(x64):
    x, y = np.full((30, 1, 1, 1), 0.5), np.zeros(30, int)

    def rarely(x):
        score = x[:, 0, 0, 0] - 0.6
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    attack = PGD(linf(0.2), 0, 0.0, restarts=4, loss=confidence)
    found = attack(rarely, x, y, KEY)
    np.testing.assert_array_equal(
        found.success, (starts(linf(0.2), KEY, x, 4) > 0.1).any(0).ravel()
    )
    assert 0 < found.success.sum() < 30


# Where results lie


@settings(max_examples=24)
@given(
    x=hnp.arrays(
        np.float32, (4, 3, 3, 1), elements=st.floats(0, 1, width=32, allow_subnormal=False)
    ),
    norm=st.sampled_from(["linf", "l2"]),
    epsilon=st.sampled_from([0.0, 8 / 255, 2.0]),
    seed=st.integers(0, 99),
)
def test_results_are_in_the_ball_and_in_the_box(x, norm, epsilon, seed):
    weight = np.random.default_rng(0).normal(size=9).astype(np.float32)
    attack = PGD(THREATS[norm](epsilon), 3, 0.3, restarts=2)
    found = attack(bind(linear, weight), x, np.array([0, 1, 0, 1]), jax.random.key(seed))
    distance = (np.asarray(found.x, np.float64) - x).reshape(4, -1)
    size = np.linalg.norm(distance, ord=np.inf if norm == "linf" else 2, axis=1)
    assert (size <= epsilon + 1e-6).all()
    assert (found.x >= 0).all()
    assert (found.x <= 1).all()


# What must not matter


def assert_same(found, other):
    for a, b in zip(found, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("n", "chunk"), [*itertools.product([6], [1, 4, 12, 23, 1000]), (5, 2), (5, 6)]
)
def test_chunks_change_nothing_and_are_respected(problem, x64, n, chunk):
    _, logits_fn, x, y = problem
    x, y, attack, rows = x[:n], y[:n], PGD(linf(0.1), 2, 0.03, restarts=4), []

    def watched(x):
        rows.append(x.shape[0])
        return logits_fn(x)

    found = dataclasses.replace(attack, chunk=chunk, compiled=True)(watched, x, y, KEY)
    assert_same(found, attack(logits_fn, x, y, KEY))
    assert max(rows) <= chunk


@pytest.mark.parametrize("chunk", [None, 4])
def test_compiled_and_step_by_step_are_the_same(problem, x64, chunk):
    _, logits_fn, x, y = problem
    attack = PGD(linf(0.1), 3, 0.03, restarts=3, momentum=0.5, chunk=chunk)
    found = [
        dataclasses.replace(attack, compiled=compiled)(logits_fn, x, y, KEY)
        for compiled in (True, False)
    ]
    assert_same(*found)


def test_with_keys_per_example_batches_do_not_matter(problem, x64):
    _, logits_fn, x, y = problem
    attack, keys = PGD(linf(0.1), 2, 0.03, restarts=2), jax.random.split(KEY, 6)
    whole = attack(logits_fn, x, y, keys)
    for rows in ([0, 1, 2], [5, 3, 1]):
        rows = np.array(rows)
        part = attack(logits_fn, x[rows], y[rows], keys[rows])
        assert_same(part, jax.tree.map(lambda v, rows=rows: v[rows], whole))


def test_one_key_stands_for_one_per_example(problem, x64):
    _, logits_fn, x, y = problem
    attack = PGD(linf(0.1), 2, 0.03)
    assert_same(attack(logits_fn, x, y, KEY), attack(logits_fn, x, y, example_keys(KEY, 6)))
    other = attack(logits_fn, x, y, jax.random.key(8))
    assert (np.abs(other.x - attack(logits_fn, x, y, KEY).x) > 1e-3).any()


def test_devices_do_not_matter(problem, x64, spread):
    _, logits_fn, x, y = problem
    x, y = np.concatenate([x, x[::-1]]), np.concatenate([y, y[::-1]])
    attack, keys = PGD(linf(0.1), 2, 0.03, restarts=2, chunk=12), example_keys(KEY, 12)
    found = attack(logits_fn, *spread((x, y, keys)))
    assert_same(found, attack(logits_fn, x, y, keys))
    assert len(found.x.sharding.device_set) == 4


def test_checkpoints_share_one_compilation(problem):
    network, _, x, y = problem
    traces = []

    def logits(params, x):
        traces.append(1)
        return network.logits(params, x)

    counts = []
    for s in (1.0, 1.1, 1.2):
        params = jax.tree.map(lambda w, s=s: jnp.float32(s * w), network.params)
        attack = PGD(linf(0.1), 2, 0.03)
        attack(bind(logits, params), x.astype(np.float32), y, KEY)
        counts.append(len(traces))
    assert counts[0] == counts[1] == counts[2]


def test_can_be_part_of_a_compiled_program(problem, x64):
    _, logits_fn, x, y = problem
    attack = PGD(linf(0.1), 2, 0.03)
    inside = jax.jit(lambda logits_fn, x, y, key: attack(logits_fn, x, y, key))
    assert_same(inside(logits_fn, x, y, KEY), attack(logits_fn, x, y, KEY))


# Other losses, and numbers that are none


def test_a_loss_of_the_users(problem, x64):
    """The loss given is ascended, returned, and decides which iterate counts."""
    _, logits_fn, x, y = problem
    plain = PGD(linf(0.1), 5, 0.03)(logits_fn, x, y, KEY)
    found = PGD(linf(0.1), 5, 0.03, loss=losses.margin)(logits_fn, x, y, KEY)
    margin = losses.margin(logits_fn(found.x), y)
    np.testing.assert_allclose(found.loss, margin, rtol=1e-9)
    assert (margin >= losses.margin(logits_fn(x), y)).all()
    assert not np.allclose(found.x, plain.x)


def test_a_loss_that_is_not_a_number_is_infinite(x64):
    x, y = np.full((20, 1, 1, 1), 0.5), np.zeros(20, int)

    def broken_above(x):
        score = jnp.where(x > 0.6, jnp.nan, x)[:, 0, 0, 0]
        return jnp.stack([jnp.ones_like(score), score], axis=1)

    found = PGD(linf(0.2), 0, 0.0)(broken_above, x, y, KEY)
    broken = starts(linf(0.2), KEY, x, 1)[0].ravel() > 0.1
    assert 0 < broken.sum() < 20
    np.testing.assert_array_equal(np.isposinf(found.loss), broken)
    np.testing.assert_array_equal(found.success, broken)
    assert np.isfinite(found.loss[~broken]).all()
    stepped = PGD(linf(0.2), 4, 0.1)(broken_above, x, y, KEY)
    assert np.isfinite(stepped.x).all()


def test_a_gradient_that_is_not_a_number_is_no_adversarial_example(x64):
    """The distance to the input itself has no derivative at 0; NaN pixels fool everybody."""

    def distance(x):
        score = -jnp.sqrt(jnp.square(x - 0.5).sum((1, 2, 3))) - 1
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    x, y = np.full((2, 2, 2, 1), 0.5), np.zeros(2, int)
    assert np.isnan(jax.grad(lambda x: distance(x).sum())(x)).all()
    found = PGD(linf(0.1), 3, 0.05, random_start=False)(distance, x, y, KEY)
    assert np.isfinite(found.x).all()
    assert np.isfinite(found.loss).all()
    assert not found.success.any()


def test_a_flat_loss_moves_nothing(crops):
    x, y = crops(3, 4)
    for threat in (linf(0.1), l2(0.1)):
        attack = PGD(threat, 3, 0.05, momentum=0.5, random_start=False)
        found = attack(lambda x: jnp.zeros((x.shape[0], 4)), x, y % 4, KEY)
        np.testing.assert_array_equal(found.x, x)


def test_half_precision_inputs_have_a_float32_loss(crops):
    x, y = crops(3, 4)
    weight = jnp.ones(48, jnp.bfloat16)
    found = PGD(linf(0.1), 2, 0.05)(bind(linear, weight), jnp.asarray(x, jnp.bfloat16), y % 2, KEY)
    assert found.x.dtype == jnp.bfloat16
    assert found.loss.dtype == jnp.float32


# At the door


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps >= 0"),
        ({"restarts": 0}, "restarts >= 1"),
        ({"chunk": 0}, "chunk >= 1"),
        ({"step_size": -0.1}, "step_size >= 0"),
        ({"step_size": float("nan")}, "step_size >= 0"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"momentum": -0.1}, r"momentum in \[0, 1\)"),
        ({"restarts": 2, "random_start": False}, "nothing to restart"),
    ],
)
def test_bad_settings_are_told(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**{"threat": linf(0.1), "steps": 2, "step_size": 0.1, **settings})


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, int), "x must be floating point"),
        (np.zeros(3), np.zeros(3, int), "x must be floating point"),
        (np.zeros((0, 2, 2, 1)), np.zeros(0, int), "n >= 1"),
        (np.zeros((3, 2, 2, 1)), np.zeros(2, int), r"y must be integers, shape \(3,\)"),
        (np.zeros((3, 2, 2, 1)), np.zeros((3, 2), int), r"y must be integers, shape \(3,\)"),
        (np.zeros((3, 2, 2, 1)), np.zeros(3), "y must be integers"),
    ],
)
def test_bad_inputs_are_told(x, y, message):
    with pytest.raises(ValueError, match=message):
        pgd(bind(linear, np.ones(4)), x, y, KEY, threat=linf(0.1), steps=2, step_size=0.1)


def test_bad_keys_are_told():
    x, y = np.zeros((3, 2, 2, 1), np.float32), np.zeros(3, int)
    attack = PGD(linf(0.1), 2, 0.1)
    with pytest.raises(ValueError, match="one key or 3 keys"):
        attack(bind(linear, np.ones(4)), x, y, jax.random.split(KEY, 2))


def test_settings_are_static_arguments():
    assert PGD(linf(0.1), 2, 0.1) == PGD(linf(0.1), 2, 0.1)
    assert hash(PGD(linf(0.1), 2, 0.1)) == hash(PGD(linf(0.1), 2, 0.1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        PGD(linf(0.1), 2, 0.1).steps = 3  # type: ignore[misc]


# Targets, one step, and stopping early


def test_a_targeted_loss_gets_its_targets(problem, x64):
    _, logits_fn, x, y = problem
    targets = (y + 1) % 4
    loss = losses.targeted_cross_entropy
    found = pgd(
        logits_fn, x, y, KEY, threat=linf(1.0), steps=30, step_size=0.05, loss=loss, targets=targets
    )
    np.testing.assert_array_equal(np.argmax(logits_fn(found.x), -1), targets)
    np.testing.assert_allclose(found.loss, loss(logits_fn(found.x), y, targets), rtol=1e-9)


@pytest.mark.parametrize("chunk", [1, 5, 12])
def test_chunks_keep_examples_and_targets_together(problem, x64, chunk):
    _, logits_fn, x, y = problem
    targets, whole = (y + 1) % 4, PGD(linf(0.1), 3, 0.03, 2, loss=losses.targeted_margin)
    part = dataclasses.replace(whole, chunk=chunk)
    for a, b in zip(
        whole(logits_fn, x, y, KEY, targets), part(logits_fn, x, y, KEY, targets), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_fgsm_is_one_step_of_epsilon(problem, x64):
    network, logits_fn, x, y = problem
    found = fgsm(logits_fn, x, y, KEY, threat=linf(0.02))
    _, _, gradient, _ = network.differentiate(network.params, x, y)
    stepped = np.clip(x + 0.02 * np.sign(gradient), 0, 1)
    higher = losses.cross_entropy(logits_fn(stepped), y) > losses.cross_entropy(logits_fn(x), y)
    assert higher.sum() >= 4
    np.testing.assert_allclose(np.asarray(found.x)[higher], stepped[higher], atol=1e-12)


@pytest.mark.parametrize("tau", [0, 1, 3])
def test_pgd_tau_stops_so_many_steps_after_the_label_flips(problem, x64, tau):
    """One example after the other: plain PGD of as many steps as PGD-tau made."""
    network, logits_fn, x, _ = problem
    y = np.asarray(logits_fn(x)).argmax(1)
    attack = PGD(linf(0.1), 12, 0.004, random_start=False, stop_after=tau)
    found = attack(logits_fn, x, y, KEY)
    stopped_early = 0
    for i in range(len(x)):
        point, left = x[i], None
        for _ in range(12):
            _, _, (gradient,), (prediction,) = network.differentiate(
                network.params, point[None], y[i : i + 1]
            )
            if left is None and prediction != y[i]:
                left = tau
            if left == 0:
                stopped_early += 1
                break
            left = left if left is None else left - 1
            delta = np.clip(point - x[i] + 0.004 * np.sign(gradient), -0.1, 0.1)
            point = np.clip(x[i] + delta, 0, 1)
        np.testing.assert_allclose(found.x[i], point, atol=1e-12)
    assert stopped_early > 0
    np.testing.assert_allclose(found.loss, losses.cross_entropy(logits_fn(found.x), y), rtol=1e-9)


def test_pgd_tau_leaves_what_is_misclassified_where_it_is(problem, x64):
    _, logits_fn, x, _ = problem
    y = (np.asarray(logits_fn(x)).argmax(1) + 1) % 4
    found = PGD(linf(0.1), 5, 0.02, random_start=False, stop_after=0)(logits_fn, x, y, KEY)
    np.testing.assert_array_equal(found.x, x)
    assert found.success.all()


def test_misclassified_first_returns_an_input_that_fools_wherever_there_is_one(x64):
    """A rival is ahead at first; later two share what is lost, at a higher loss."""

    def model(x):
        t = x.reshape(-1) * 10  # 0 to 1 along the attack
        true, rival = jnp.log(0.42 - 0.1 * t), jnp.log(0.46 - 0.18 * t)
        return jnp.stack([true, rival, jnp.log(0.12 + 0.28 * t * 0.95)], axis=1)

    x, y = jnp.zeros((3, 1, 1, 1)), jnp.zeros(3, int)
    plain = PGD(linf(0.05), 5, 0.01, restarts=3)
    first = dataclasses.replace(plain, misclassified_first=True)
    found = plain(model, x, y, KEY)
    assert found.success.all()
    assert not losses.is_misclassified(model(found.x), y).any()
    found = first(model, x, y, KEY)
    assert found.success.all()
    assert losses.is_misclassified(model(found.x), y).all()
    np.testing.assert_allclose(found.loss, losses.cross_entropy(model(found.x), y), rtol=1e-9)


def test_misclassified_first_agrees_with_success(problem, x64):
    _, logits_fn, x, _ = problem
    y = np.asarray(logits_fn(x)).argmax(1)
    attack = PGD(linf(0.02), 10, 0.01, restarts=3, misclassified_first=True)
    found = attack(logits_fn, x, y, KEY)
    np.testing.assert_array_equal(losses.is_misclassified(logits_fn(found.x), y), found.success)
    assert np.mean(found.success) > 0


@pytest.mark.parametrize("attack", [PGD(linf(0.1), 3, 0.03, 2), APGD(linf(0.1), 5, 2)])
def test_kl_pushes_predictions_away_from_the_clean_ones(problem, x64, attack):
    """The adversary of TRADES: its targets are logits."""
    _, logits_fn, x, y = problem
    clean = logits_fn(x)
    attack = dataclasses.replace(attack, loss=losses.kl_divergence_from)
    found = attack(logits_fn, x, y, KEY, targets=clean)
    expected = losses.kl_divergence(clean, logits_fn(found.x))
    np.testing.assert_allclose(found.loss, expected, rtol=1e-9)
    assert (found.loss > 0).all()
    again = attack(logits_fn, x, (y + 1) % 4, KEY, targets=clean)
    assert isinstance(attack, APGD) or (again.x == found.x).all(), "labels do not matter"


@pytest.mark.parametrize("attack", [PGD(linf(0.1), 3, 0.03), APGD(linf(0.1), 5)])
def test_a_loss_that_needs_targets_says_so(problem, attack):
    _, logits_fn, x, y = problem
    attack = dataclasses.replace(attack, loss=losses.targeted_margin)
    with pytest.raises(ValueError, match="targeted_margin .* call the attack with targets"):
        attack(logits_fn, x, y, KEY)
    with pytest.raises(ValueError, match="targets must have"):
        attack(logits_fn, x, y, KEY, targets=jnp.zeros((len(x) + 1, 4)))
    with pytest.raises(ValueError, match="targets must be integers"):
        attack(logits_fn, x, y, KEY, targets=y[1:])
