"""SGD as in PyTorch, against the update written out by hand in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm.training.optimiser import Gradient, Optax, adam, sgd
from rfm.training.schedule import cyclic, multi_step
from rfm.training.state import create_train_state


def by_hand(w, gradients, rates, momentum, nesterov, weight_decay):
    """torch.optim.SGD's documented update."""
    buffer = np.zeros_like(w)
    for g, rate in zip(gradients, rates, strict=True):
        g = g + weight_decay * w
        buffer = momentum * buffer + g
        w = w - rate * (g + momentum * buffer if nesterov else buffer)
    return w


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 0.0005), (0.0, 0.1), (0.5, 0.0)])
def test_sgd_is_pytorchs(nesterov, momentum, weight_decay):
    if nesterov and not momentum:
        pytest.skip("PyTorch refuses Nesterov without momentum")
    random = np.random.default_rng(0)
    w, gradients = random.normal(size=(3, 2)), random.normal(size=(5, 3, 2))
    schedule = multi_step(0.1, (1, 2), 0.1, steps_per_epoch=2)
    optimiser = sgd(schedule, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    params = {"kernel": jnp.asarray(w, jnp.float32)}
    state = create_train_state(params, {}, optimiser.init(params))
    for g in gradients:

        def grad_fn(params, stats, batch, key):
            return Gradient({"kernel": jnp.asarray(batch, jnp.float32)}, stats, {})

        state, _ = optimiser.update(grad_fn, state, (g,), jax.random.key(0))
    rates = [0.1, 0.1, 0.01, 0.01, 0.001]
    expected = by_hand(w, gradients, rates, momentum, nesterov, weight_decay)
    np.testing.assert_allclose(state.params["kernel"], expected, rtol=1e-5)


def test_multi_step_drops_at_the_milestones_of_section_f():
    schedule = multi_step(0.05, (60, 90, 120), 0.1, steps_per_epoch=390)
    epochs = [0, 59.99, 60, 89.99, 90, 120, 149]
    rates = [float(schedule(int(e * 390))) for e in epochs]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.005, 0.005, 5e-4, 5e-5, 5e-5], rtol=1e-5)


def test_two_drops_at_one_epoch_both_count():
    """Small configs round the study's milestones to the same epoch."""
    schedule = multi_step(1.0, (3, 3), 0.1, steps_per_epoch=10)
    rates = [float(schedule(step)) for step in (29, 31)]
    np.testing.assert_allclose(rates, [1.0, 0.01], rtol=1e-6)


def test_optax_takes_one_batch():
    assert Optax(None).batches == 1
    with pytest.raises(ValueError, match="unpack"):
        sgd(lambda _: 0.1, momentum=0.9, nesterov=True, weight_decay=0.0).update(
            None, create_train_state({}, {}, {}), (1, 2), jax.random.key(0)
        )


def test_adam_decays_inside_the_gradient():
    """torch.optim.Adam's documented update, weight_decay added to the gradient."""
    random = np.random.default_rng(0)
    w, gradients = random.normal(size=3), random.normal(size=(4, 3))
    optimiser = adam(lambda step: 0.1, weight_decay=0.3)
    params = {"kernel": jnp.asarray(w, jnp.float32)}
    state = create_train_state(params, {}, optimiser.init(params))
    first, second = np.zeros(3), np.zeros(3)
    for number, g in enumerate(gradients, start=1):

        def grad_fn(params, stats, batch, key):
            return Gradient({"kernel": jnp.asarray(batch, jnp.float32)}, stats, {})

        state, _ = optimiser.update(grad_fn, state, (g,), jax.random.key(0))
        g = g + 0.3 * w
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        unbiased = first / (1 - 0.9**number), second / (1 - 0.999**number)
        w = w - 0.1 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    np.testing.assert_allclose(state.params["kernel"], w, rtol=1e-4)


def test_a_cycle_is_a_triangle():
    """The released schedule: from 0 up to 0.2 over 15 epochs and back."""
    schedule = cyclic(0.2, 30, steps_per_epoch=10)
    rates = [float(schedule(jnp.int32(step))) for step in (0, 75, 150, 225, 299, 300, 450)]
    expected = [0, 0.1, 0.2, 0.1, 0.2 / 150, 0, 0.2]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)
