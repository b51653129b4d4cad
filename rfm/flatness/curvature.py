"""Curvature of the loss around the weights: extreme eigenvalues and spectral density.

The Hessian is never formed. Lanczos' method with full re-orthogonalisation (matfree) turns
some dozens of products with it, streamed over batches, into a small tridiagonal matrix, whose
extreme eigenvalues are close to those of the Hessian, and whose eigenvectors say how close
(`Eigenpair.residual`).

Eigenvalues are *not* invariant to rescaling the network (Section E of the supplement); they
are here because Table A and Fig. C have them. For RLoss give adversarial examples as inputs:
they are held fixed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key
from matfree import decomp

from rfm.devices import fetch
from rfm.flatness._hessian import (
    Data,
    LeafPredicate,
    all_leaves,
    as_tree,
    chosen,
    dimension_of,
    hessian_product,
    quadratic_forms,
    stacked,
)
from rfm.flatness._hessian import several_dimensions as several_dimensions
from rfm.types import ApplyFn, Images, Labels, Params, as_partial


class Eigenpair(NamedTuple):
    """An eigenvalue of the Hessian, as Lanczos found it.

    Attributes:
      value: in nats per squared unit of the weights.
      vector: unit length, a tree like the parameters; 0 where a leaf is left out.
      residual: ``||H v - value * v||``; an eigenvalue lies within this distance of `value`.
      examples: ``v H_i v`` of every example's loss, shape (n,), float64. Their mean is `value`;
        how they differ says, to first order, how `value` would with other examples.
    """

    value: float
    vector: Params
    residual: float
    examples: Float[np.ndarray, " n"]


class Eigenvalues(NamedTuple):
    """The two ends of the spectrum (Table A).

    Attributes:
      largest: lambda_max.
      smallest: lambda_min.
    """

    largest: Eigenpair
    smallest: Eigenpair

    @property
    def convexity(self) -> float:
        """``|lambda_min| / |lambda_max|``, Table A; NaN if the Hessian is 0."""
        largest = abs(self.largest.value)
        return abs(self.smallest.value) / largest if largest else float("nan")


class SpectralDensity(NamedTuple):
    """The distribution of eigenvalues, by stochastic Lanczos quadrature.

    Attributes:
      nodes: estimated eigenvalues, shape (probes, k).
      weights: their shares, shape (probes, k), rows of sum one.
      dimension: number of weights, of which each share is one.
    """

    nodes: Float[np.ndarray, "probes k"]
    weights: Float[np.ndarray, "probes k"]
    dimension: int

    def at(self, grid: Float[np.ndarray, " m"], width: float) -> Float[np.ndarray, " m"]:
        """The density, mean over probes, convolved with a Gaussian of deviation `width`."""
        distance = (np.asarray(grid)[:, None, None] - self.nodes) / width
        bumps = np.exp(-0.5 * distance**2) / (width * np.sqrt(2 * np.pi))
        density: np.ndarray = (bumps * self.weights).sum(-1).mean(-1)
        return density

    def mean_of(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """Mean of a function of the eigenvalues, and its standard error over probes.

        With the identity it is ``trace(H) / dimension``. Exact for polynomials of degree
        below 2 k, given the probes.
        """
        found = (function(self.nodes) * self.weights).sum(-1)
        if len(found) < 2:
            return float(found.mean()), float("nan")
        return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found)))


def extreme_eigenvalues(
    apply_fn: ApplyFn,
    params: Params,
    x: Images | np.ndarray,
    y: Labels | np.ndarray,
    key: Key[Array, ""],
    *,
    leaves: LeafPredicate = all_leaves,
    products: int = 50,
    batch_size: int = 128,
    mesh: Mesh | None = None,
) -> Eigenvalues:
    """lambda_max and lambda_min of the Hessian of the mean loss, with eigenvectors.

    Args:
      apply_fn: the model, evaluation mode; ideally a ``jax.tree_util.Partial``.
      params: where the Hessian is taken.
      x: inputs (n, h, w, c); adversarial ones for RLoss.
      y: labels (n,).
      key: of the random vector that Lanczos begins with.
      leaves: which leaves of `params` are variables.
      products: Hessian-vector products; memory holds so many copies of the weights. More of
        them make the residuals smaller. At most the number of weights are used.
      batch_size: examples at a time; limits memory, changes no result but rounding.
      mesh: devices to spread the work over; see `rfm.devices`.

    Returns:
      `Eigenvalues`.

    Raises:
      ValueError: no leaf is a variable, or `products` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, rfm
      >>> apply_fn = lambda w, x: jnp.concatenate([0 * x, w * x], axis=1)
      >>> x, y, key = jnp.ones((1, 1)), jnp.array([1]), jax.random.key(0)
      >>> found = rfm.flatness.extreme_eigenvalues(apply_fn, jnp.array([0.0]), x, y, key)
      >>> print(round(found.largest.value, 3))  # log(1 + exp(-w)) at w = 0
      0.25
    """
    problem = _Problem(as_partial(apply_fn), params, stacked(x, y, batch_size, mesh), leaves)
    q, matrix, following = _lanczos(problem, key, products)
    values, vectors = np.linalg.eigh(matrix)

    def pair(index: int) -> Eigenpair:
        vector = jnp.asarray(vectors[:, index], q.dtype) @ q
        bent, valid = fetch((quadratic_forms(*problem[:3], vector, leaves), problem.data.valid))
        residual = following * abs(vectors[-1, index])
        tree = as_tree(vector, params, leaves)
        return Eigenpair(
            float(values[index]), tree, residual, bent.ravel().astype(np.float64)[valid.T.ravel()]
        )

    return Eigenvalues(pair(-1), pair(0))


def spectral_density(
    apply_fn: ApplyFn,
    params: Params,
    x: Images | np.ndarray,
    y: Labels | np.ndarray,
    key: Key[Array, ""],
    *,
    leaves: LeafPredicate = all_leaves,
    products: int = 50,
    probes: int = 4,
    batch_size: int = 128,
    mesh: Mesh | None = None,
) -> SpectralDensity:
    """The spectral density of the Hessian (Ghorbani et al., 2019), see `SpectralDensity`.

    Arguments as in `extreme_eigenvalues`; `probes` random vectors are averaged.

    Raises:
      ValueError: no leaf is a variable, or a count is not positive.
    """
    if probes < 1:
        raise ValueError(f"need at least one probe, got {probes}")
    problem = _Problem(as_partial(apply_fn), params, stacked(x, y, batch_size, mesh), leaves)
    found = [_lanczos(problem, jax.random.fold_in(key, i), products)[1] for i in range(probes)]
    # Where Lanczos' method ended early, the last node again, of no weight.
    shape = (probes, max(map(len, found)))
    nodes, weights = np.zeros(shape), np.zeros(shape)
    for probe, matrix in enumerate(found):
        values, vectors = np.linalg.eigh(matrix)
        nodes[probe], weights[probe, : len(values)] = values[-1], vectors[0] ** 2
        nodes[probe, : len(values)] = values
    return SpectralDensity(nodes, weights, dimension_of(params, leaves))


class _Problem(NamedTuple):
    """Which Hessian."""

    apply_fn: Any
    params: Params
    data: Data
    leaves: LeafPredicate


def _lanczos(
    problem: _Problem, key: Key[Array, ""], products: int
) -> tuple[Float[Array, "k d"], Float[np.ndarray, "k k"], float]:
    """Lanczos' basis from a random start, the tridiagonal matrix, and what would follow it."""
    if products < 1:
        raise ValueError(f"need at least one Hessian-vector product, got {products}")
    count = min(products, dimension_of(problem.params, problem.leaves))
    start = _begin(problem.params, key, problem.leaves)
    q, small, rest = _tridiagonal(*problem[:3], start, problem.leaves, count)
    matrix = np.asarray(small, np.float64)
    matrix, following = _without_breakdown(matrix, float(jnp.finfo(start.dtype).eps))
    beyond = float(jnp.linalg.norm(rest)) if following is None else following
    return q[: len(matrix)], matrix, beyond


@functools.partial(jax.jit, static_argnums=(4, 5))
def _tridiagonal(
    apply_fn: Any,
    params: Params,
    data: Data,
    start: Float[Array, " d"],
    leaves: LeafPredicate,
    count: int,
) -> tuple[Float[Array, "k d"], Float[Array, "k k"], Float[Array, " d"]]:
    """Lanczos' basis, the tridiagonal matrix, and what is left after the last product."""

    def product(vector: Array, params: Params, apply_fn: Any, data: Data) -> Array:
        return hessian_product(apply_fn, params, data, vector, leaves)

    data = jax.tree.map(lambda v: jnp.moveaxis(v, 1, 0), data)  # batches first, to scan over
    lanczos = decomp.tridiag_sym(count, reortho="full", custom_vjp=False)
    found = lanczos(product, start, params, apply_fn, data)
    return found.Q_tall, found.J_small, found.residual


def _begin(params: Params, key: Key[Array, ""], leaves: LeafPredicate) -> Float[Array, " d"]:
    """Random signs: of all directions the same share."""
    dtype = jnp.result_type(*chosen(params, leaves))
    return jax.random.rademacher(key, (dimension_of(params, leaves),), dtype)


def _without_breakdown(matrix: np.ndarray, epsilon: float) -> tuple[np.ndarray, float | None]:
    """The part of Lanczos' matrix that can be trusted, and the entry that would follow it.

    A Krylov space that is exhausted (a low rank, or few distinct eigenvalues) leaves a
    vector of almost length 0. What is made of it is rounding error, or not a number. None: all
    of the matrix can be trusted.
    """
    beside = np.abs(np.diagonal(matrix, 1))
    size = np.maximum.accumulate(np.abs(np.diagonal(matrix)))[:-1]
    bad = np.flatnonzero(~(beside > 1e3 * epsilon * size))
    if not len(bad):
        return matrix, None
    kept, following = int(bad[0]) + 1, float(np.nan_to_num(beside[bad[0]]))
    return matrix[:kept, :kept], following
