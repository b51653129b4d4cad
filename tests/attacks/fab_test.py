"""FAB finds the nearest boundary: exactly known for linear models."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rfm import losses
from rfm.attacks import FAB, PGD, Targeted, fab
from rfm.threat import l2, linf
from rfm.types import bind, example_keys

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(5)
PIXELS = st.floats(0, 1, width=32, allow_subnormal=False)
THREATS = {"linf": linf, "l2": l2}


def affine(params, x):
    weight, bias = params
    return x.reshape(len(x), -1) @ weight + bias


@pytest.fixture
def classes(crops):
    """Five affine classes at real images far from the box, labelled by the model itself."""
    rng = np.random.default_rng(1)
    x = 0.35 + 0.3 * crops(12, 4)[0].astype(np.float64)
    params = (rng.normal(size=(48, 5)), rng.normal(size=5) * 0.1)
    return bind(affine, params), params, x, np.asarray(affine(params, x)).argmax(1)


def distances(params, x, y, norm) -> np.ndarray:
    """To the boundary with each class, (n, k); infinite for the label."""
    weight, bias = params
    logits = x.reshape(len(x), -1) @ weight + bias
    dual = {"linf": 1, "l2": 2}[norm]
    found = np.full(logits.shape, np.inf)
    for i, j in itertools.product(range(len(x)), range(5)):
        if j != y[i]:
            normal = weight[:, j] - weight[:, y[i]]
            found[i, j] = (logits[i, y[i]] - logits[i, j]) / np.linalg.norm(normal, dual)
    return found


def on_a_line(steps: int) -> float:
    """What FAB finds on an affine model, where it never leaves the line to the boundary.

    As a multiple of the distance: one point moves to and fro around 1.
    """
    at, best = 0.0, np.inf
    for _ in range(steps):
        alpha = min(abs(1 - at) / (abs(1 - at) + 1), 0.1)
        at = (1 - alpha) * (at + 1.05 * (1 - at)) + alpha * 1.05
        if at > 1:
            best, at = min(best, at), 0.9 * at
    return best


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distance_to_an_affine_boundary(classes, x64, norm):
    logits_fn, params, x, y = classes
    found = FAB(THREATS[norm](1.0), 40).minimal(logits_fn, x, y, KEY)
    exact = distances(params, x, y, norm).min(1)
    np.testing.assert_allclose(found.norm, exact * on_a_line(40), rtol=1e-6)
    assert 1 < on_a_line(40) < 1.01
    assert losses.is_misclassified(logits_fn(found.x), y).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distance_to_the_boundary_with_a_target(classes, x64, norm):
    """Of two classes: with more, a third one may be met on the way."""
    _, (weight, bias), x, _ = classes
    params = (weight[:, :2], bias[:2])
    logits_fn = bind(affine, params)
    y = np.asarray(logits_fn(x)).argmax(1)
    found = FAB(THREATS[norm](1.0), 40).minimal(logits_fn, x, y, KEY, 1 - y)
    normal = params[0][:, 1] - params[0][:, 0]
    gap = np.abs(np.diff(np.asarray(logits_fn(x)), axis=1)[:, 0])
    exact = gap / np.linalg.norm(normal, {"linf": 1, "l2": 2}[norm])
    np.testing.assert_allclose(found.norm, exact * on_a_line(40), rtol=1e-6)


def test_success_is_what_epsilon_says(classes, x64):
    logits_fn, params, x, y = classes
    exact = distances(params, x, y, "linf").min(1)
    epsilon = float(np.sort(exact)[5:7].mean())
    found = fab(logits_fn, x, y, KEY, threat=linf(epsilon), steps=40)
    np.testing.assert_array_equal(found.success, exact < epsilon)
    np.testing.assert_array_equal(np.asarray(found.x)[exact > epsilon], x[exact > epsilon])
    np.testing.assert_allclose(found.loss, losses.margin(logits_fn(found.x), y), rtol=1e-9)


def test_all_targets_find_the_nearest_class(classes, x64):
    logits_fn, params, x, y = classes
    exact = distances(params, x, y, "l2").min(1)
    epsilon = float(np.sort(exact)[5:7].mean())
    found = Targeted(FAB(l2(epsilon), 40))(logits_fn, x, y, KEY)
    np.testing.assert_array_equal(found.success, exact < epsilon)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@settings(max_examples=20)
@given(
    x=hnp.arrays(np.float32, (3, 4, 4, 3), elements=PIXELS),
    epsilon=st.sampled_from([0.01, 0.1, 3.0]),
)
def test_results_are_in_the_ball_and_in_the_box(tanh_network, norm, x, epsilon):
    network = tanh_network(48)
    logits_fn = bind(network.logits, jax.tree.map(np.float32, network.params))
    y = np.asarray(logits_fn(x)).argmax(1)
    threat = THREATS[norm](epsilon)
    found = FAB(threat, 5, restarts=2)(logits_fn, x, y, KEY)
    assert ((found.x >= 0) & (found.x <= 1)).all()
    assert (threat.norm(found.x - x) <= epsilon + 1e-6).all()
    np.testing.assert_array_equal(found.success, losses.is_misclassified(logits_fn(found.x), y))


def test_it_finds_what_pgd_finds(crops, x64, tanh_network):
    network = tanh_network(48)
    logits_fn = bind(network.logits, network.params)
    x = crops(32, 4)[0].astype(np.float64)
    y = np.asarray(logits_fn(x)).argmax(1)
    pgd = PGD(linf(0.015), 40, 0.002, restarts=5)(logits_fn, x, y, KEY)
    found = FAB(linf(0.015), 40)(logits_fn, x, y, KEY)
    assert 0.1 < np.mean(pgd.success) < 0.9
    assert np.mean(found.success) >= np.mean(pgd.success) - 1 / 32


def test_restarts_find_a_nearer_boundary_that_the_input_does_not_see(x64):
    """One pixel: from 0.5 the gradient leads to 0.9, from the other side to 0.45."""

    def model(x):
        x = x.reshape(-1)
        return jnp.stack([jnp.zeros_like(x), jnp.maximum(x - 0.9, 10 * (0.45 - x))], axis=1)

    x, y = jnp.full((8, 1, 1, 1), 0.5), jnp.zeros(8, int)
    found = [FAB(linf(0.2), 20, restarts=r).minimal(model, x, y, KEY) for r in (1, 2, 5)]
    for few, many in itertools.pairwise(found):
        assert (many.norm <= few.norm).all()
    np.testing.assert_allclose(found[0].norm, 0.4, rtol=0.01)
    np.testing.assert_allclose(np.min(found[-1].norm), 0.05, rtol=0.01)


def test_random_starts_differ_with_the_key(classes, x64):
    logits_fn, _, x, y = classes
    attack = FAB(l2(1.0), 2, random_start=True)
    one, other = (attack.minimal(logits_fn, x, y, jax.random.key(seed)) for seed in (0, 1))
    assert (one.norm != other.norm).any()


def test_what_is_misclassified_already_is_at_distance_zero(classes, x64):
    logits_fn, _, x, y = classes
    wrong = (y + 1) % 5
    found = FAB(linf(1e-6), 3).minimal(logits_fn, x, wrong, KEY)
    np.testing.assert_array_equal(found.norm, 0)
    np.testing.assert_array_equal(found.x, x)
    assert FAB(linf(1e-6), 3)(logits_fn, x, wrong, KEY).success.all()


def test_other_balls_are_refused():
    with pytest.raises(ValueError, match="L-infinity and L2"):
        FAB("linf")


def test_compiled_and_step_by_step_are_the_same(classes, x64):
    logits_fn, _, x, y = classes
    one, other = (
        FAB(linf(0.1), 6, restarts=2, compiled=compiled).minimal(logits_fn, x, y, KEY)
        for compiled in (True, False)
    )
    np.testing.assert_allclose(one.norm, other.norm, rtol=1e-9)


def test_devices_do_not_matter(classes, x64, spread):
    logits_fn, _, x, y = classes
    keys, attack = example_keys(KEY, 12), FAB(linf(0.1), 6)
    one = attack.minimal(logits_fn, x, y, keys)
    several = attack.minimal(logits_fn, *spread((x, y, keys)))
    np.testing.assert_allclose(one.norm, several.norm, rtol=1e-9)


def test_where_no_boundary_is_found_the_input_is_returned(x64):
    def certain(x):
        return (
            jnp.stack([jnp.ones(len(x)), jnp.zeros(len(x))], axis=1) + 0 * x.sum((1, 2, 3))[:, None]
        )

    x = jnp.full((2, 2, 2, 1), 0.3)
    found = FAB(linf(0.1), 5, restarts=2).minimal(certain, x, jnp.zeros(2, int), KEY)
    np.testing.assert_array_equal(found.x, x)
    assert np.isinf(found.norm).all()


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"restarts": 0}])
def test_bad_settings_are_told(wrong):
    with pytest.raises(ValueError, match="FAB needs"):
        FAB(linf(0.1), **wrong)
