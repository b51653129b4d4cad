"""What happens after the update: bounds, and the recursion of Eq. (8)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm.training.after import AverageWeights, ClipWeights
from rfm.training.state import create_train_state


def state_of(values, average=False):
    params = {"kernel": jnp.asarray(values, jnp.float32)}
    return create_train_state(params, {"mean": params["kernel"] * 2}, {}, average=average)


@pytest.mark.parametrize("limit", [0.005, 0.025])
def test_weights_are_clipped_and_small_ones_stay(limit):
    values = np.linspace(-0.03, 0.03, 13, dtype=np.float32)
    found = np.asarray(ClipWeights(limit)(state_of(values)).params["kernel"])
    assert np.abs(found).max() == np.float32(limit)
    inside = np.abs(values) <= limit
    np.testing.assert_array_equal(found[inside], values[inside])


@pytest.mark.parametrize("tau", [0.0, 0.9, 0.9975])
def test_averages_follow_the_recursion(tau):
    random = np.random.default_rng(0)
    values = random.normal(size=(5, 3))
    state, expected = state_of(values[0], average=True), values[0]
    for value in values[1:]:
        state = state.replace(
            params={"kernel": jnp.asarray(value, jnp.float32)},
            batch_stats={"mean": jnp.asarray(2 * value, jnp.float32)},
        )
        state = AverageWeights(tau)(state)
        expected = tau * expected + (1 - tau) * value
        np.testing.assert_allclose(state.evaluated.params["kernel"], expected, rtol=1e-5)
        # Statistics that are a linear function of the weights stay that function of them.
        np.testing.assert_allclose(state.evaluated.batch_stats["mean"], 2 * expected, rtol=1e-5)
        np.testing.assert_allclose(state.params["kernel"], value, rtol=1e-6)


def test_without_an_average_the_weights_themselves_are_evaluated():
    state = state_of([1.0, 2.0])
    assert state.evaluated.params is state.params
    assert len(jax.tree.leaves(state)) == 3, "no average takes room"


@pytest.mark.parametrize("make", [lambda: ClipWeights(0.0), lambda: AverageWeights(1.0)])
def test_bad_settings_are_told(make):
    with pytest.raises(ValueError, match="must be"):
        make()
