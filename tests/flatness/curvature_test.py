"""Curvature, against dense Hessians and losses whose eigenvalues are known by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rfm import losses, models
from rfm.flatness import extreme_eigenvalues, spectral_density
from rfm.flatness.curvature import SpectralDensity, all_leaves, several_dimensions
from rfm.models.rescale import rescale

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

KEY = jax.random.key(5)


def hessians(problem, leaves=all_leaves):
    """The Hessian of every example's loss, entry by entry."""
    flat, structure = jax.tree_util.tree_flatten_with_path(problem.params)
    chosen = [leaves(jax.tree_util.keystr(p), jnp.asarray(v)) for p, v in flat]
    some = [jnp.asarray(v) for (_, v), take in zip(flat, chosen, strict=True) if take]
    vector, unravel = ravel_pytree(some)

    def loss(vector, x, y):
        moved = iter(unravel(vector))
        values = [next(moved) if take else v for (_, v), take in zip(flat, chosen, strict=True)]
        logits = problem.apply_fn(jax.tree.unflatten(structure, values), x[None])
        return losses.cross_entropy(logits, y[None])[0]

    return np.asarray(jax.vmap(jax.hessian(loss), (None, 0, 0))(vector, problem.x, problem.y))


def dense(problem, leaves=all_leaves):
    """The Hessian of the mean loss, entry by entry, and its eigenvalues."""
    matrix = hessians(problem, leaves).mean(0)
    return matrix, np.linalg.eigvalsh(matrix)


@pytest.mark.parametrize("batch_size", [10, 4])
def test_what_each_example_has_of_an_eigenvalue(problem, batch_size, four_devices):
    """``v H_i v``, by the dense Hessian of each example alone."""
    alone = hessians(problem)
    for mesh in (None, four_devices):
        size = 4 * batch_size if mesh else batch_size
        found = extreme_eigenvalues(*problem, KEY, products=12, batch_size=size, mesh=mesh)
        for pair in found:
            vector = ravel_pytree(pair.vector)[0]
            np.testing.assert_allclose(
                pair.examples, vector @ alone @ vector, rtol=1e-8, atol=1e-12
            )
            assert pair.examples.mean() == pytest.approx(pair.value, rel=1e-9)


def test_how_examples_differ_says_how_the_eigenvalue_would(problem):
    """To first order: leaving one example out changes both alike."""
    forms = extreme_eigenvalues(*problem, KEY, products=60).largest.examples
    alone = hessians(problem)
    without = (alone.sum(0) - alone) / (len(alone) - 1)
    found = np.linalg.eigvalsh(without)[:, -1]
    predicted = (forms.sum() - forms) / (len(forms) - 1)
    assert np.corrcoef(found, predicted)[0, 1] > 0.9
    assert np.std(predicted) == pytest.approx(np.std(found), rel=0.35)


@pytest.mark.parametrize("leaves", [all_leaves, several_dimensions])
@pytest.mark.parametrize("batch_size", [10, 4])
def test_the_ends_of_the_spectrum_are_those_of_the_dense_hessian(problem, leaves, batch_size):
    matrix, values = dense(problem, leaves)
    found = extreme_eigenvalues(*problem, KEY, leaves=leaves, batch_size=batch_size)
    assert found.largest.value == pytest.approx(values[-1], rel=1e-8)
    assert found.smallest.value == pytest.approx(values[0], rel=1e-8)
    assert found.convexity == pytest.approx(abs(values[0]) / abs(values[-1]), rel=1e-7)
    for pair in found:
        kept = [v for v in jax.tree.leaves(pair.vector) if leaves("", v)]
        vector = np.concatenate([np.ravel(v) for v in kept])
        assert np.linalg.norm(vector) == pytest.approx(1)
        assert np.linalg.norm(matrix @ vector - pair.value * vector) < 1e-6 * values[-1]


def test_leaves_left_out_have_no_part_in_the_vectors(problem):
    found = extreme_eigenvalues(*problem, KEY, leaves=several_dimensions, products=5)
    for pair in found:
        for leaf in jax.tree.leaves(pair.vector):
            assert leaf.any() == (leaf.ndim > 1)


@pytest.mark.parametrize("products", [2, 4, 8])
def test_residuals_say_how_far_an_eigenvalue_can_be(problem, products):
    matrix, values = dense(problem)
    found = extreme_eigenvalues(*problem, KEY, products=products)
    for pair in found:
        vector = ravel_pytree(pair.vector)[0]
        expected = np.linalg.norm(matrix @ vector - pair.value * vector)
        assert pair.residual == pytest.approx(expected, rel=1e-6, abs=1e-12)
        assert np.abs(values - pair.value).min() <= pair.residual + 1e-12


def test_more_products_than_distinct_eigenvalues_do_no_harm(problem):
    """The Krylov space is exhausted; what follows would be noise."""
    _, values = dense(problem)
    found = extreme_eigenvalues(*problem, KEY, products=10_000)
    assert found.largest.value == pytest.approx(values[-1], rel=1e-8)
    assert found.smallest.value == pytest.approx(values[0], rel=1e-6)
    assert found.largest.residual < 1e-8


def logistic(params, x):
    score = x.reshape(x.shape[0], -1) @ params["w"]
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


def test_logistic_regression_by_hand():
    """The Hessian is ``p (1 - p) x x^T``: rank one for one example, in any precision."""
    x = np.random.default_rng(0).uniform(size=(1, 2, 2, 3))
    w = np.random.default_rng(1).normal(size=12)
    p = 1 / (1 + np.exp(-(w @ x.ravel())))
    expected = p * (1 - p) * (x**2).sum()
    for dtype in (np.float64, np.float32):
        params, inputs = {"w": jnp.asarray(w, dtype)}, jnp.asarray(x, dtype)
        found = extreme_eigenvalues(logistic, params, inputs, np.zeros(1, int), KEY)
        assert found.largest.value == pytest.approx(expected, rel=1e-5)
        assert found.smallest.value == pytest.approx(0, abs=1e-6 * expected)
        density = spectral_density(logistic, params, inputs, np.zeros(1, int), KEY, probes=400)
        trace, error = density.mean_of(lambda v: v)
        assert abs(trace - expected / 12) < 5 * error


def test_the_density_has_the_traces_of_the_hessian(problem):
    matrix, values = dense(problem)
    density = spectral_density(*problem, KEY, products=20, probes=200)
    assert density.dimension == len(matrix)
    np.testing.assert_allclose(density.weights.sum(1), 1, rtol=1e-9)
    for power in (1, 2):
        mean, error = density.mean_of(lambda v, power=power: v**power)
        assert abs(mean - np.mean(values**power)) < 5 * error
    grid = np.linspace(values[0] - 1, values[-1] + 1, 4001)
    curve = density.at(grid, 0.05)
    assert np.trapezoid(curve, grid) == pytest.approx(1, abs=1e-3)
    exact = np.exp(-0.5 * ((grid[:, None] - values) / 0.05) ** 2) / 0.05 / np.sqrt(2 * np.pi)
    assert np.trapezoid(np.abs(curve - exact.mean(1)), grid) < 0.1


def test_a_density_by_hand():
    density = SpectralDensity(np.array([[0.0, 2.0]]), np.array([[0.75, 0.25]]), 4)
    assert density.mean_of(lambda v: v)[0] == 0.5
    peak = 1 / np.sqrt(2 * np.pi) / 0.1
    np.testing.assert_allclose(density.at(np.array([0, 2]), 0.1), [0.75 * peak, 0.25 * peak])


def test_devices_and_batches_do_not_matter(problem, four_devices):
    one = extreme_eigenvalues(*problem, KEY, products=12)
    for more in ({"mesh": four_devices, "batch_size": 4}, {"batch_size": 3}):
        other = extreme_eigenvalues(*problem, KEY, products=12, **more)
        assert other.largest.value == pytest.approx(one.largest.value, rel=1e-9)
        assert other.smallest.value == pytest.approx(one.smallest.value, rel=1e-9)


def test_eigenvalues_scale_with_the_weights():
    """As Table A: half the weights, about four times the largest eigenvalue."""
    module = models.create("resnet8", classes=4, width=2, mean=(0.5,) * 3, std=(0.2,) * 3)
    params, stats = models.initialise(module, KEY, (8, 8, 3))
    params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), params)
    x = np.random.default_rng(0).uniform(size=(4, 8, 8, 3))
    convolutions = lambda path, leaf: leaf.ndim == 4  # noqa: E731
    found = [
        extreme_eigenvalues(
            models.apply_fn(module, scaled[1]), scaled[0], x, np.arange(4), KEY,
            leaves=convolutions, products=30,
        ).largest.value
        for scaled in (rescale(params, stats, factor) for factor in (1.0, 0.5))
    ]  # fmt: skip
    assert found[1] / found[0] == pytest.approx(4, rel=1e-3)


def test_models_of_other_libraries(crops):
    """Flax's own convolutions, and a plain function."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(nn.tanh(nn.Conv(2, (3, 3))(x)).mean((1, 2)))

    x, y = crops(3, 4)
    variables = Net().init(KEY, x)
    found = extreme_eigenvalues(Net().apply, variables, x, y % 4, KEY, products=3)
    assert found.largest.value > found.smallest.value


def test_bad_settings_are_told(problem):
    with pytest.raises(ValueError, match="at least one Hessian-vector product"):
        extreme_eigenvalues(*problem, KEY, products=0)
    with pytest.raises(ValueError, match="leaves out every parameter"):
        extreme_eigenvalues(*problem, KEY, leaves=lambda path, leaf: False)
    with pytest.raises(ValueError, match="at least one probe"):
        spectral_density(*problem, KEY, probes=0)
