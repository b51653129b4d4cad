"""Where the gradient is taken: lengths, directions, and a hand computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm.perturb import RelativeBall
from rfm.training.weight_adversary import AdversarialWeights, SharpnessAware


def tree(seed):
    random = np.random.default_rng(seed)
    shapes = {"conv/kernel": (3, 3, 2, 4), "dense/bias": (4,), "norm/scale": (4,)}
    return {k: jnp.asarray(random.normal(size=v), jnp.float32) for k, v in shapes.items()}


PARAMS, GRADIENT = tree(0), tree(1)


def norm(leaf):
    return float(np.linalg.norm(leaf))


def moved(adversary, gradient=GRADIENT, gradient_at=None):
    found = adversary(gradient_at or (lambda params: gradient), PARAMS, gradient)
    return jax.tree.map(lambda a, b: a - b, found, PARAMS)


@pytest.mark.parametrize("radius", [0.0005, 0.01, 0.02])
def test_one_step_ends_on_the_surface_of_the_ball(radius):
    """Eq. (12): in every layer the norm is xi times that of the weights, uphill."""
    nu = moved(AdversarialWeights(RelativeBall(radius)))
    for name in ("conv/kernel", "dense/bias"):
        assert norm(nu[name]) == pytest.approx(radius * norm(PARAMS[name]), rel=1e-4)
        direction = GRADIENT[name] / norm(GRADIENT[name])
        np.testing.assert_allclose(nu[name] / norm(nu[name]), direction, atol=1e-3)
    np.testing.assert_array_equal(nu["norm/scale"], 0)


@pytest.mark.parametrize("steps", [2, 7])
def test_more_steps_stay_in_the_ball_and_follow_new_gradients(steps):
    calls = []

    def gradient_at(params):
        calls.append(params)
        return jax.tree.map(lambda w, p: w - 0.9 * p, params, PARAMS)

    ball = RelativeBall(0.1)
    nu = moved(AdversarialWeights(ball, steps), gradient_at=gradient_at)
    assert calls, "later gradients are taken at the moved weights"
    for name in ("conv/kernel", "dense/bias"):
        assert norm(nu[name]) <= 0.1 * norm(PARAMS[name]) * (1 + 1e-5)
    assert not np.allclose(nu["dense/bias"], moved(AdversarialWeights(ball))["dense/bias"])


def test_a_layer_without_gradient_stays():
    gradient = {**GRADIENT, "dense/bias": jnp.zeros(4)}
    for adversary in (AdversarialWeights(RelativeBall(0.01)), SharpnessAware(0.05)):
        nu = moved(adversary, gradient)
        np.testing.assert_array_equal(nu["dense/bias"], 0)
        assert all(np.isfinite(leaf).all() for leaf in nu.values())
    nothing = jax.tree.map(jnp.zeros_like, GRADIENT)
    np.testing.assert_array_equal(moved(SharpnessAware(0.05), nothing)["conv/kernel"], 0)


def test_sharpness_aware_moves_all_weights_as_one_vector():
    nu = moved(SharpnessAware(0.05))
    length = np.sqrt(sum(norm(leaf) ** 2 for leaf in GRADIENT.values()))
    for name, leaf in nu.items():
        np.testing.assert_allclose(leaf, 0.05 * GRADIENT[name] / length, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: AdversarialWeights(RelativeBall(0.01), 0), lambda: SharpnessAware(-1.0)]
)
def test_bad_settings_are_told(make):
    with pytest.raises(ValueError, match="at least"):
        make()
