"""Norm balls around inputs."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rfm import threat

SHAPE = (3, 2, 3, 2)
EPSILONS = st.sampled_from([0.0, 8 / 255, 0.5, 3.0])
KINDS = st.sampled_from([threat.linf, threat.l2])
DELTAS = hnp.arrays(np.float32, SHAPE, elements=st.floats(-4, 4, width=32, allow_subnormal=False))
BOTH = pytest.mark.parametrize("kind", [threat.linf, threat.l2])


def numpy_norm(ball, delta) -> np.ndarray:
    flat = np.asarray(delta, np.float64).reshape(len(delta), -1)
    return np.linalg.norm(flat, ord=np.inf if isinstance(ball, threat.Linf) else 2, axis=1)


@given(KINDS, EPSILONS, DELTAS)
def test_norm(kind, epsilon, delta):
    ball = kind(epsilon)
    np.testing.assert_allclose(ball.norm(jnp.asarray(delta)), numpy_norm(ball, delta), rtol=1e-6)


@given(KINDS, EPSILONS, DELTAS)
def test_projection_lands_in_the_ball(kind, epsilon, delta):
    ball = kind(epsilon)
    underflow = 1e-18  # squares of less are zero in float32
    found = numpy_norm(ball, ball.project(jnp.asarray(delta)))
    assert (found <= epsilon * (1 + 1e-6) + underflow).all()


@given(KINDS, EPSILONS, DELTAS)
def test_projection_is_idempotent(kind, epsilon, delta):
    ball = kind(epsilon)
    once = ball.project(jnp.asarray(delta))
    np.testing.assert_allclose(ball.project(once), once, rtol=1e-6)


@given(KINDS, EPSILONS, DELTAS)
def test_projection_moves_no_point_inside(kind, epsilon, delta):
    ball = kind(epsilon)
    size = numpy_norm(ball, delta)
    shrink = np.where(size > 0, 0.99 * epsilon / np.maximum(size, 1e-6), 1).clip(max=1)
    inside = (delta * shrink.reshape(-1, 1, 1, 1)).astype(np.float32)
    inside[np.abs(inside) < np.finfo(np.float32).tiny] = 0  # XLA flushes subnormal numbers
    np.testing.assert_array_equal(ball.project(jnp.asarray(inside)), inside)


@given(KINDS, EPSILONS, DELTAS)
def test_projection_is_the_nearest_point(kind, epsilon, delta):
    """A point p of a convex set is nearest to d iff (d - p) . (q - p) <= 0 for all q in it."""
    ball = kind(epsilon)
    nearest = np.asarray(ball.project(jnp.asarray(delta)), np.float64)
    others = np.asarray(ball.sample(jax.random.key(0), SHAPE), np.float64)
    inner = ((delta - nearest) * (others - nearest)).reshape(len(delta), -1).sum(1)
    assert (inner <= 1e-4 * max(epsilon, 1e-3)).all()


@given(KINDS, DELTAS, DELTAS)
def test_steepest_ascent_gains_the_dual_norm_and_no_unit_step_gains_more(kind, gradient, other):
    ball = kind(1.0)
    step = np.asarray(ball.steepest_ascent(jnp.asarray(gradient)), np.float64)
    assert (numpy_norm(ball, step) <= 1 + 1e-6).all()
    gain = (step * gradient).reshape(len(step), -1).sum(1)
    dual = np.linalg.norm(
        gradient.reshape(len(step), -1).astype(np.float64),
        ord=1 if isinstance(ball, threat.Linf) else 2,
        axis=1,
    )
    np.testing.assert_allclose(gain, dual, rtol=1e-5, atol=1e-30)
    other = np.asarray(ball.project(jnp.asarray(other)), np.float64)
    assert ((other * gradient).reshape(len(step), -1).sum(1) <= gain + 1e-5).all()


@BOTH
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-3, 1e18, 1e30])
def test_steepest_ascent_does_not_depend_on_the_size_of_the_gradient(kind, size):
    """A saturated model has tiny gradients; their squares must not underflow."""
    gradient = jax.random.normal(jax.random.key(0), SHAPE)
    expected = kind(1.0).steepest_ascent(gradient)
    np.testing.assert_allclose(kind(1.0).steepest_ascent(size * gradient), expected, rtol=1e-5)


@BOTH
def test_no_gradient_no_step(kind):
    gradient = jnp.zeros(SHAPE).at[1].set(1.0)
    step = kind(0.5).steepest_ascent(gradient)
    np.testing.assert_array_equal(step[0], jnp.zeros(SHAPE[1:]))
    assert (jnp.abs(step[1]) > 0).all()


@pytest.mark.parametrize(
    "function",
    [
        threat.l2_norm,
        threat.l2(0.5).norm,
        threat.l2(0.5).project,
        threat.l2(0.0).project,
        threat.l2(0.5).steepest_ascent,
        threat.linf(0.5).project,
        threat.linf(0.5).steepest_ascent,
    ],
)
def test_gradients_at_zero_are_numbers(function):
    zero = jnp.zeros(SHAPE)
    value, gradient = jax.value_and_grad(lambda d: function(d).sum())(zero)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_the_gradient_of_the_l2_norm():
    delta = jax.random.normal(jax.random.key(0), SHAPE)
    gradient = jax.grad(lambda d: threat.l2_norm(d).sum())(delta)
    np.testing.assert_allclose(gradient, threat.l2(1.0).steepest_ascent(delta), rtol=1e-5)
    np.testing.assert_array_equal(jax.grad(lambda d: threat.l2_norm(d).sum())(0 * delta), 0 * delta)


@given(KINDS, EPSILONS, st.integers(0, 1000))
def test_samples_are_in_the_ball(kind, epsilon, seed):
    ball = kind(epsilon)
    drawn = ball.sample(jax.random.key(seed), SHAPE)
    assert drawn.shape == SHAPE
    assert (numpy_norm(ball, drawn) <= epsilon * (1 + 1e-6)).all()


def test_linf_samples_are_uniform():
    drawn = threat.linf(0.3).sample(jax.random.key(0), (4000, 1, 1, 2))
    for pixel in np.asarray(drawn).reshape(4000, 2).T:
        assert scipy.stats.kstest(pixel, scipy.stats.uniform(-0.3, 0.6).cdf).pvalue > 0.01


def test_l2_samples_are_uniform_in_the_ball():
    """In d dimensions (norm / epsilon)^d is uniform, and a coordinate is a shifted beta."""
    epsilon, shape = 0.3, (4000, 2, 2, 1)
    drawn = threat.l2(epsilon).sample(jax.random.key(0), shape)
    volume = (numpy_norm(threat.l2(epsilon), drawn) / epsilon) ** 4
    assert scipy.stats.kstest(volume, "uniform").pvalue > 0.01
    marginal = scipy.stats.beta(2.5, 2.5, loc=-epsilon, scale=2 * epsilon)
    for pixel in np.asarray(drawn).reshape(4000, 4).T:
        assert scipy.stats.kstest(pixel, marginal.cdf).pvalue > 0.01


@BOTH
def test_examples_have_draws_of_their_own(kind):
    drawn = np.asarray(kind(0.3).sample(jax.random.key(0), (50, 2, 2, 1))).reshape(50, -1)
    assert len(np.unique(drawn, axis=0)) == 50
    np.testing.assert_allclose(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1], 0, atol=0.35)


@BOTH
@pytest.mark.parametrize("epsilon", [-1e-3, float("nan"), float("inf")])
def test_a_bad_epsilon_is_told(kind, epsilon):
    with pytest.raises(ValueError, match="epsilon must be a finite number >= 0"):
        kind(epsilon)


@BOTH
def test_balls_are_static_arguments(kind):
    assert kind(0.5) == kind(0.5)
    assert hash(kind(0.5)) == hash(kind(0.5))
    assert kind(0.5) != kind(0.25)
    assert threat.linf(0.5) != threat.l2(0.5)


def test_the_docstring_is_true():
    assert doctest.testmod(threat).failed == 0
