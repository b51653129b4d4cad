"""Entropy-SGD against its recursion written out in NumPy, on a quadratic loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm.training.entropy_sgd import EntropySGD
from rfm.training.optimiser import Gradient, sgd
from rfm.training.state import create_train_state

CURVATURE = np.array([1.0, 0.1, 3.0])


def grad_fn(params, stats, batch, key):
    """Of 1/2 sum c (w - target)^2, with the batch as target."""
    gradient = {"w": jnp.asarray(CURVATURE, jnp.float32) * (params["w"] - batch)}
    return Gradient(gradient, stats + 1, {"loss": batch.sum(), "error": jnp.zeros(())})


def optimiser_with(inner_steps, **changes):
    outer = sgd(lambda step: 0.5, momentum=0.9, nesterov=True, weight_decay=0.01)
    settings = {"momentum": 0.9, "weight_decay": 0.01, "noise": 0.0} | changes
    return EntropySGD(outer.transformation, inner_steps, **settings)


def by_hand(w, updates, gamma, scoping, momentum=0.9, decay=0.01, rate=0.1, average=0.75):
    """The authors' loop: `updates` are lists of targets."""
    outer_velocity = np.zeros_like(w)
    for number, targets in enumerate(updates):
        inner, mean, velocity = w.copy(), w.copy(), np.zeros_like(w)
        for target in targets:
            slope = CURVATURE * (inner - target) + decay * inner
            velocity = momentum * velocity + slope
            step = slope + momentum * velocity - gamma * (1 + scoping) ** number * (w - inner)
            inner = inner - rate * step
            mean = average * mean + (1 - average) * inner
        slope = w - mean + decay * w
        outer_velocity = momentum * outer_velocity + slope
        w = w - 0.5 * (slope + momentum * outer_velocity)
    return w


def run(optimiser, w, updates):
    params = {"w": jnp.asarray(w, jnp.float32)}
    state = create_train_state(params, jnp.zeros(()), optimiser.init(params))
    for targets in updates:
        batches = tuple(jnp.asarray(t, jnp.float32) for t in targets)
        state, metrics = optimiser.update(grad_fn, state, batches, jax.random.key(0))
        state = state.replace(step=state.step + 1)
    return state, metrics


@pytest.mark.parametrize("inner_steps", [1, 2, 5])
@pytest.mark.parametrize(("scope", "scoping"), [(1e-4, 1e-3), (3.0, 0.3)])
def test_updates_are_those_of_the_recursion(inner_steps, scope, scoping):
    random = np.random.default_rng(0)
    w, updates = random.normal(size=3), random.normal(size=(4, inner_steps, 3))
    state, metrics = run(optimiser_with(inner_steps, scope=scope, scoping=scoping), w, updates)
    expected = by_hand(w, updates, scope, scoping)
    np.testing.assert_allclose(state.params["w"], expected, rtol=1e-4, atol=1e-5)
    assert float(state.batch_stats) == 4 * inner_steps, "statistics follow every batch"
    assert float(metrics["loss"]) == pytest.approx(updates[-1].sum(1).mean(), rel=1e-4)


def test_the_centre_pulls_inner_weights_back():
    """With a scope that is strong, the inner loop stays where it began."""
    w, updates = np.ones(3), np.full((1, 5, 3), -5.0)
    weak, _ = run(optimiser_with(5, scope=0.0), w, updates)
    strong, _ = run(optimiser_with(5, scope=9.0), w, updates)
    assert np.linalg.norm(strong.params["w"] - w) < 0.7 * np.linalg.norm(weak.params["w"] - w)


def test_noise_has_the_deviation_of_the_langevin_dynamics():
    """inner_rate * noise / sqrt(inner_rate / 2) at each inner weight, from another key anew."""
    w = np.zeros(20_000)
    outer = sgd(lambda step: 1.0, momentum=0.0, nesterov=False, weight_decay=0.0)
    optimiser = EntropySGD(outer.transformation, 1, noise=0.3, average=0.0, momentum=0.0)
    params = {"w": jnp.asarray(w, jnp.float32)}
    state = create_train_state(params, jnp.zeros(()), optimiser.init(params))

    def flat(params, stats, batch, key):
        return Gradient(jax.tree.map(jnp.zeros_like, params), stats, {"loss": jnp.zeros(())})

    moved = [
        optimiser.update(flat, state, (jnp.zeros(()),), jax.random.key(k))[0].params["w"]
        for k in (0, 1)
    ]
    for weights in moved:
        assert float(weights.std()) == pytest.approx(0.1 * 0.3 / np.sqrt(0.05), rel=0.03)
    assert abs(np.corrcoef(moved)[0, 1]) < 0.05


def test_scoping_ends_before_the_inner_loop_would_diverge():
    """After tens of thousands of updates, gamma is as large as it may be."""
    outer = sgd(lambda step: 0.1, momentum=0.0, nesterov=False, weight_decay=0.0)
    optimiser = EntropySGD(outer.transformation, 5, momentum=0.0, noise=0.0)
    w = np.ones(3)
    for step in (30_000, 2**30):
        params = {"w": jnp.asarray(w, jnp.float32)}
        state = create_train_state(params, jnp.zeros(()), optimiser.init(params))
        state = state.replace(step=jnp.int32(step))
        batches = tuple(jnp.zeros(3) for _ in range(5))
        found = optimiser.update(grad_fn, state, batches, jax.random.key(0))[0].params["w"]
        inner = mean = w
        for _ in range(5):  # every inner step is pulled all the way back to w
            inner = w - 0.1 * CURVATURE * inner
            mean = 0.75 * mean + 0.25 * inner
        np.testing.assert_allclose(found, w - 0.1 * (w - mean), rtol=1e-4)


def test_without_nesterov_the_velocity_alone_moves_the_weights():
    w, targets = np.ones(3), np.zeros((1, 2, 3))
    found, _ = run(optimiser_with(2, nesterov=False, scope=0.0), w, targets)
    inner, mean, velocity = w.copy(), w.copy(), np.zeros(3)
    for _ in range(2):
        velocity = 0.9 * velocity + CURVATURE * inner + 0.01 * inner
        inner = inner - 0.1 * velocity
        mean = 0.75 * mean + 0.25 * inner
    slope = w - mean + 0.01 * w
    np.testing.assert_allclose(found.params["w"], w - 0.5 * 1.9 * slope, rtol=1e-5)


def test_bad_settings_are_told():
    with pytest.raises(ValueError, match="at least one inner step"):
        optimiser_with(0)
