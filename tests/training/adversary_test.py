"""Which inputs training sees, on a model whose attacks are known by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm import losses
from rfm.attacks import PGD
from rfm.threat import linf
from rfm.training.adversary import Attack

KEY = jax.random.key(0)
PGD_5 = PGD(linf(0.1), steps=5, step_size=0.05)
X = jnp.full((4, 2, 2, 1), 0.5)


def logits_fn(x):
    """Two classes; class 1 wins where the mean is above 0.45."""
    score = (x.mean((1, 2, 3)) - 0.45) * 10
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


def test_the_worst_iterate_goes_away_from_the_label():
    y = jnp.array([1, 0, 1, 0])
    found = Attack(PGD_5)(logits_fn, X, y, KEY).mean((1, 2, 3))
    np.testing.assert_allclose(found, [0.4, 0.6, 0.4, 0.6], atol=1e-6)


def test_ignored_examples_stay_as_they_are():
    """Label 0 is wrong without an attack."""
    y = jnp.array([1, 0, 1, 0])
    found = Attack(PGD_5, ignore_incorrect=True)(logits_fn, X, y, KEY)
    np.testing.assert_array_equal(found[1::2], X[1::2])
    np.testing.assert_allclose(found[::2].mean((1, 2, 3)), 0.4, atol=1e-6)


def test_without_leaking_the_prediction_is_attacked():
    """Class 1 is predicted everywhere, whatever the labels are."""
    y = jnp.array([1, 0, 1, 0])
    found = Attack(PGD_5, prevent_label_leaking=True)(logits_fn, X, y, KEY)
    np.testing.assert_allclose(found.mean((1, 2, 3)), 0.4, atol=1e-6)


def test_a_divergence_is_ascended_from_the_clean_prediction():
    attack = dataclasses.replace(PGD_5, loss=losses.kl_divergence_from)
    found = Attack(attack, from_clean=True)(logits_fn, X, jnp.array([0, 1, 0, 1]), KEY)
    # Both ends of the ball are local maxima of the divergence; labels play no part.
    np.testing.assert_allclose(np.abs(found - X), 0.1, atol=1e-6)
    with pytest.raises(ValueError, match="targets"):
        Attack(attack)(logits_fn, X, jnp.array([0, 1, 0, 1]), KEY)


def test_the_reference_of_the_divergence_is_held_fixed():
    """While attacking: no gradient reaches the clean logits."""
    z = jax.random.normal(KEY, (3, 5))
    gradient = jax.grad(lambda clean: losses.kl_divergence_from(z, jnp.zeros(3, int), clean).sum())(
        z + 1.0 * jnp.arange(5)
    )
    np.testing.assert_array_equal(gradient, 0)


def test_friendly_examples_stop_so_many_steps_after_they_fall():
    """PGD-tau: 0.5 falls below 0.45 after two steps of 0.03 from the input itself."""
    y = jnp.ones(4, int)
    for tau, mean in ((0, 0.44), (1, 0.41), (None, 0.40)):
        attack = PGD(linf(0.1), 7, 0.03, stop_after=tau, random_start=False)
        found = Attack(attack)(logits_fn, X, y, KEY).mean((1, 2, 3))
        np.testing.assert_allclose(found, mean, atol=1e-6)
