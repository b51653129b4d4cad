"""Auto-PGD, against closed forms, the published schedule, and a slow version in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rfm import losses
from rfm.attacks import APGD, PGD, Targeted, apgd
from rfm.attacks.apgd import _start, _step, checkpoints
from rfm.attacks.targets import likely_targets
from rfm.threat import l2, linf
from rfm.types import bind, example_keys

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(3)
PIXELS = st.floats(0, 1, width=32, allow_subnormal=False)
THREATS = {"linf": linf, "l2": l2}


@pytest.fixture
def problem(crops, tanh_network):
    """A small network at the centres of real images, float64."""
    x, y = crops(6, 4)
    network = tanh_network(48)
    return network, bind(network.logits, network.params), x.astype(np.float64), y % 4


def linear(weight, x):
    """Two classes; the loss of label 0 grows with weight . x."""
    score = x.reshape(x.shape[0], -1) @ weight.ravel()
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


# The schedule


@pytest.mark.parametrize(
    ("steps", "published"),
    [
        (100, (22, 41, 57, 70, 80, 87, 93, 99)),
        (1000, (220, 410, 570, 700, 800, 870, 930, 990)),
        (50, (11, 21, 29, 35, 40, 44, 47, 50)),
        (20, (5, 9, 12, 14, 16, 18, 19, 20)),
        (1, (1,)),
    ],
)
def test_checkpoints_are_the_published_ones(steps, published):
    assert checkpoints(steps) == published


@given(st.integers(1, 3000))
def test_checkpoints_ascend_and_come_ever_closer(steps):
    marks = checkpoints(steps)
    assert marks[0] >= 1
    assert marks[-1] <= steps
    gaps = np.diff((0, *marks))
    assert (gaps > 0).all()
    assert (np.diff(gaps) <= 1).all(), "up to rounding"


# Closed forms


@pytest.mark.parametrize("epsilon", [8 / 255, 0.4])
def test_linear_model_linf(crops, x64, epsilon):
    x, _ = crops(8, 4)
    x = x.astype(np.float64)
    weight = np.random.default_rng(0).normal(size=x.shape[1:])
    found = APGD(linf(epsilon), 40)(bind(linear, weight), x, np.zeros(8, int), KEY)
    best = np.clip(x + epsilon * np.sign(weight), 0, 1)
    np.testing.assert_allclose(found.x, best, atol=1e-9)


def test_linear_model_l2(crops, x64):
    x, _ = crops(8, 4)
    x = 0.3 + 0.4 * x.astype(np.float64)  # the box is out of reach
    weight = np.random.default_rng(0).normal(size=x.shape[1:])
    found = APGD(l2(0.2), 100)(bind(linear, weight), x, np.zeros(8, int), KEY)
    best = x + 0.2 * weight / np.linalg.norm(weight)
    np.testing.assert_allclose(found.x, best, atol=1e-3)
    gained = ((np.asarray(found.x) - x) * weight).sum((1, 2, 3))
    np.testing.assert_allclose(gained, 0.2 * np.linalg.norm(weight), rtol=1e-5)


# The slow reference


def slow_apgd(network, x, y, start, *, norm, epsilon, steps):
    """One example after the other, straight from the paper's algorithm 1 (float64)."""

    def evaluate(point, label):
        (loss,), _, (gradient,), (prediction,) = network.differentiate(
            network.params, point[None], np.array([label])
        )
        return loss, gradient, prediction != label

    def project(point, centre):
        delta = point - centre
        if norm == "linf":
            delta = np.clip(delta, -epsilon, epsilon)
        else:
            delta = delta * min(1.0, epsilon / max(np.linalg.norm(delta), 1e-300))
        return np.clip(centre + delta, 0, 1)

    def direction(gradient):
        return np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)

    marks, results = checkpoints(steps), []
    for centre, label, first in zip(x, y, start, strict=True):
        current = previous = best = first
        loss, gradient, wrong = evaluate(current, label)
        best_loss, best_gradient, eta = loss, gradient, 2 * epsilon
        found = (wrong, loss, current)
        rises, halved, loss_before = 0, True, loss
        last_mark = 0
        for step in range(1, steps + 1):
            ahead = project(current + eta * direction(gradient), centre)
            alpha = 1.0 if step == 1 else 0.75
            new = project(
                current + alpha * (ahead - current) + (1 - alpha) * (current - previous), centre
            )
            previous, current = current, new
            new_loss, gradient, wrong = evaluate(current, label)
            rises += new_loss > loss
            loss = new_loss
            if loss > best_loss:
                best, best_loss, best_gradient = current, loss, gradient
            if (wrong, loss) > found[:2]:
                found = (wrong, loss, current)
            if step in marks:
                seldom = rises < 0.75 * (step - last_mark)
                stuck = not halved and loss_before >= best_loss
                halved = seldom or stuck
                if halved:
                    eta, current, gradient = eta / 2, best, best_gradient
                rises, loss_before, last_mark = 0, best_loss, step
        results.append(found)
    wrong, loss, points = zip(*results, strict=True)
    return np.stack(points), np.array(loss), np.array(wrong)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.03), ("l2", 0.15)])
def test_agrees_with_numpy_number_by_number(problem, x64, norm, epsilon):
    network, logits_fn, x, _ = problem
    y = np.asarray(logits_fn(x)).argmax(1)
    attack = APGD(THREATS[norm](epsilon), 30)
    keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys(KEY, len(x)), 0)
    start = np.asarray(_start(attack, logits_fn, x, y, keys, None).x)
    found = attack(logits_fn, x, y, KEY)
    expected = slow_apgd(network, x, y, start, norm=norm, epsilon=epsilon, steps=30)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)
    assert 0 < np.mean(found.success) < 1


# Invariants


@pytest.mark.parametrize("norm", ["linf", "l2"])
@settings(max_examples=20)
@given(
    x=hnp.arrays(np.float32, (3, 4, 4, 3), elements=PIXELS),
    epsilon=st.sampled_from([0.01, 0.1, 3.0]),
    seed=st.integers(0, 99),
)
def test_results_are_in_the_ball_and_in_the_box(tanh_network, norm, x, epsilon, seed):
    network = tanh_network(48)
    params = jax.tree.map(np.float32, network.params)
    threat = THREATS[norm](epsilon)
    found = APGD(threat, 5)(
        bind(network.logits, params), x, np.zeros(3, np.int32), jax.random.key(seed)
    )
    assert (found.x >= 0).all()
    assert (found.x <= 1).all()
    assert (threat.norm(found.x - x) <= epsilon + 1e-6).all()


def test_the_best_loss_never_falls_and_is_that_of_the_best_point(problem, x64):
    _, logits_fn, x, y = problem
    attack, keys = APGD(linf(0.1), 20), example_keys(KEY, len(x))
    lengths = jnp.where(jnp.arange(20) % 5 == 4, 5, 0)
    state, i = _start(attack, logits_fn, x, y, keys, None), jnp.int32(0)
    halved = 0
    for _ in range(20):
        before = state
        state, i = _step(attack, logits_fn, x, y, keys, None, lengths, state, i)
        assert (state.best_loss >= before.best_loss).all()
        loss = losses.cross_entropy(logits_fn(state.best), y)
        np.testing.assert_allclose(state.best_loss, loss, rtol=1e-9)
        assert (state.step_size <= before.step_size).all()
        halved += int((state.step_size < before.step_size).sum())
    assert halved, "this problem does not test the schedule"


def test_more_restarts_never_make_a_model_look_more_robust(problem, x64):
    _, logits_fn, x, y = problem
    found = [APGD(linf(0.05), 4, restarts=r)(logits_fn, x, y, KEY) for r in (1, 2, 5)]
    for few, many in itertools.pairwise(found):
        assert (many.success >= few.success).all()
        same = many.success == few.success
        assert (many.loss >= few.loss - 1e-12)[same].all()


def test_it_beats_pgd_of_as_many_steps(problem, x64):
    _, logits_fn, x, y = problem
    auto = APGD(linf(0.1), 50)(logits_fn, x, y, KEY)
    plain = PGD(linf(0.1), 50, 0.007)(logits_fn, x, y, KEY)
    assert np.mean(auto.loss) >= np.mean(plain.loss) - 1e-3


def test_a_misclassified_iterate_is_preferred_to_one_of_higher_loss(x64):
    """The loss asked for is highest where the model is right."""

    def model(x):
        score = x.sum((1, 2, 3)) - 0.5
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    def upside_down(logits, labels):
        return -losses.cross_entropy(logits, labels)

    x = np.full((4, 1, 1, 1), 0.45)
    found = APGD(linf(0.3), 10, loss=upside_down)(model, x, np.zeros(4, int), KEY)
    np.testing.assert_array_equal(found.success, losses.is_misclassified(model(found.x), 0))
    assert found.success.any(), "some start is misclassified"


def test_compiled_and_step_by_step_are_the_same(problem, x64):
    _, logits_fn, x, y = problem
    one, other = (
        APGD(linf(0.1), 12, restarts=2, compiled=compiled)(logits_fn, x, y, KEY)
        for compiled in (True, False)
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_with_keys_per_example_batches_do_not_matter(problem, x64):
    _, logits_fn, x, y = problem
    attack, keys = APGD(l2(0.5), 6), example_keys(KEY, len(x))
    whole = attack(logits_fn, x, y, keys)
    part = attack(logits_fn, x[2:4], y[2:4], keys[2:4])
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(a[2:4], b, rtol=1e-9)


def test_devices_do_not_matter(problem, x64, spread):
    _, logits_fn, x, y = problem
    x, y, keys = (np.concatenate([v, v[:2]]) for v in (x, y, np.arange(6)))
    attack, keys = APGD(linf(0.1), 6), example_keys(KEY, 8)
    one, several = attack(logits_fn, x, y, keys), attack(logits_fn, *spread((x, y, keys)))
    for a, b in zip(one, several, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_checkpoints_of_a_model_share_one_compilation(problem):
    network, _, x, y = problem
    calls = []

    def model(params, x):
        calls.append(1)
        return network.logits(params, x)

    x = x.astype(np.float32)
    attack = APGD(linf(0.1), 3, restarts=3, compiled=True)
    traced = []
    for scale in (1.0, 2.0):
        params = jax.tree.map(lambda leaf, s=scale: np.float32(leaf * s), network.params)
        attack(bind(model, params), x, y, KEY)
        traced.append(len(calls))
    assert traced[0] == traced[1]


# Targets


def test_targets_are_the_most_likely_wrong_classes(problem, x64):
    _, logits_fn, x, y = problem
    logits, targets = np.asarray(logits_fn(x)), np.asarray(likely_targets(logits_fn, x, y))
    for i, (row, label) in enumerate(zip(logits, y, strict=True)):
        expected = [c for c in np.argsort(-row) if c != label]
        np.testing.assert_array_equal(targets[:, i], expected)


def test_a_targeted_attack_reaches_its_targets(crops, x64, tanh_network):
    network = tanh_network(48)
    logits_fn = bind(network.logits, network.params)
    x, y = crops(6, 4)
    x, y = x.astype(np.float64), y % 4
    targets = (y + 1) % 4
    loss = losses.targeted_margin
    found = apgd(logits_fn, x, y, KEY, threat=linf(1.0), steps=40, loss=loss, targets=targets)
    np.testing.assert_array_equal(np.argmax(logits_fn(found.x), -1), targets)
    np.testing.assert_allclose(found.loss, loss(logits_fn(found.x), y, targets), rtol=1e-9)


def test_all_targets_break_what_any_breaks(problem, x64):
    _, logits_fn, x, y = problem
    attack = APGD(linf(0.08), 10, loss=losses.targeted_difference_of_logits_ratio)
    found = [Targeted(attack, classes=k)(logits_fn, x, y, KEY) for k in (1, 2, 9)]
    for few, many in itertools.pairwise(found):
        assert (many.success >= few.success).all()
    assert found[-1].success.any()


# Random models


def test_gradients_of_a_random_model_are_averaged(x64):
    """Each draw points somewhere; only the mean over many points up."""

    def model(x, key):
        noise = jax.random.normal(key, x.shape[1:]) * 20
        score = (x * (1 + noise)).sum((1, 2, 3))
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    x = np.full((8, 4, 4, 1), 0.5)

    def gain(draws):
        margin = losses.margin
        attack = APGD(linf(0.1), 10, loss=margin, draws=draws)
        return float(np.mean(np.asarray(attack(model, x, np.zeros(8, int), KEY).x - x)))

    assert gain(400) > 2 * gain(1)


# The door


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"restarts": 0}, {"draws": -1}])
def test_bad_settings_are_told(wrong):
    with pytest.raises(ValueError, match="APGD needs"):
        APGD(linf(0.1), **wrong)


def test_bad_targets_are_told():
    with pytest.raises(ValueError, match="targets must be integers"):
        APGD(linf(0.1))(linear, jnp.ones((2, 1, 1, 1)), jnp.zeros(2, int), KEY, jnp.zeros(3, int))
