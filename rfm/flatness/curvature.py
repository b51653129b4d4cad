"""Curvature of the loss around the weights: extreme eigenvalues and spectral density.

The Hessian of the mean loss is never formed. Its products with vectors,

    H v = d/dw <d/dw L(w), v>,

are derivatives in reverse over reverse, summed batch by batch: memory holds the inputs of all
examples, but the activations of one batch only. Lanczos' method with full re-orthogonalisation
(matfree) turns some dozens of them into a small tridiagonal matrix, whose extreme eigenvalues
are close to those of the Hessian, and whose eigenvectors say how close (`Eigenpair.residual`).

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
from jaxtyping import Array, Bool, Float, Key
from matfree import decomp

from rfm import losses
from rfm.batching import batches
from rfm.devices import shard
from rfm.types import ApplyFn, Images, Labels, Params, PerExample, as_partial

LeafPredicate = Callable[[str, Array], bool]
"""Is the leaf at a path ("block_0/conv/kernel") one of the Hessian's variables?"""


def all_leaves(path: str, leaf: Array) -> bool:
    """Every parameter."""
    return True


def several_dimensions(path: str, leaf: Array) -> bool:
    """Kernels alone: the choice of the released code behind Table A."""
    return leaf.ndim > 1


class Eigenpair(NamedTuple):
    """An eigenvalue of the Hessian, as Lanczos found it.

    Attributes:
      value: in nats per squared unit of the weights.
      vector: unit length, a tree like the parameters; 0 where a leaf is left out.
      residual: ``||H v - value * v||``; an eigenvalue lies within this distance of `value`.
    """

    value: float
    vector: Params
    residual: float


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
    """
    function, data = as_partial(apply_fn), _stacked(x, y, batch_size, mesh)
    count = _count(params, leaves, products)
    start = _begin(params, key, leaves)
    q, small, rest = _tridiagonal(function, params, data, start, leaves, count)
    matrix = np.asarray(small, np.float64)
    matrix, following = _without_breakdown(matrix, float(jnp.finfo(start.dtype).eps))
    values, vectors = np.linalg.eigh(matrix)
    beyond = float(jnp.linalg.norm(rest)) if following is None else following

    def pair(index: int) -> Eigenpair:
        combination = jnp.asarray(vectors[:, index], q.dtype)
        vector = _as_tree(combination @ q[: len(matrix)], params, leaves)
        return Eigenpair(float(values[index]), vector, beyond * abs(vectors[-1, index]))

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
    function, data = as_partial(apply_fn), _stacked(x, y, batch_size, mesh)
    count = _count(params, leaves, products)
    nodes, weights = np.zeros((2, probes, count))
    for probe in range(probes):
        start = _begin(params, jax.random.fold_in(key, probe), leaves)
        _, small, _ = _tridiagonal(function, params, data, start, leaves, count)
        matrix = np.asarray(small, np.float64)
        matrix, _ = _without_breakdown(matrix, float(jnp.finfo(start.dtype).eps))
        values, vectors = np.linalg.eigh(matrix)
        nodes[probe], weights[probe, : len(values)] = values[-1], vectors[0] ** 2
        nodes[probe, : len(values)] = values
    return SpectralDensity(nodes, weights, int(start.size))


class _Data(NamedTuple):
    """Batches along the second axis, so that the first can be cut over devices."""

    x: Float[Array, "batch batches h w c"]
    y: Array
    valid: Bool[Array, "batch batches"]


def _stacked(
    x: Images | np.ndarray, y: Labels | np.ndarray, batch_size: int, mesh: Mesh | None
) -> _Data:
    cut = list(batches(len(x), min(batch_size, len(x)) if mesh is None else batch_size))
    rows = np.stack([batch.indices for batch in cut], axis=1)
    valid = np.stack([batch.valid for batch in cut], axis=1)
    return _Data(*shard((np.asarray(x)[rows], np.asarray(y)[rows], valid), mesh))


@functools.partial(jax.jit, static_argnums=(4, 5))
def _tridiagonal(
    apply_fn: Any,
    params: Params,
    data: _Data,
    start: Float[Array, " d"],
    leaves: LeafPredicate,
    count: int,
) -> tuple[Float[Array, "k d"], Float[Array, "k k"], Float[Array, " d"]]:
    """Lanczos' basis, the tridiagonal matrix, and what is left after the last product."""

    def product(vector: Array, params: Params, apply_fn: Any, data: _Data) -> Array:
        return _hessian_product(apply_fn, params, data, vector, leaves)

    data = jax.tree.map(lambda v: jnp.moveaxis(v, 1, 0), data)  # batches first, to scan over
    lanczos = decomp.tridiag_sym(count, reortho="full", custom_vjp=False)
    found = lanczos(product, start, params, apply_fn, data)
    return found.Q_tall, found.J_small, found.residual


def _hessian_product(
    apply_fn: Any, params: Params, data: _Data, vector: Array, leaves: LeafPredicate
) -> Array:
    """``H v`` of the mean loss, batch by batch (the first axis of `data`)."""
    direction = _as_tree(vector, params, leaves)

    def slope(params: Params, batch: _Data) -> Array:
        def total(params: Params) -> Array:
            loss: PerExample = losses.cross_entropy(apply_fn(params, batch.x), batch.y)
            return jnp.where(batch.valid, loss, 0.0).sum()

        gradient = jax.grad(total)(params)
        products = jax.tree.map(jnp.vdot, gradient, direction)
        return jnp.sum(jnp.stack(jax.tree.leaves(products)))

    def add(sum_so_far: Array, batch: _Data) -> tuple[Array, None]:
        return sum_so_far + _as_vector(jax.grad(slope)(params, batch), leaves), None

    summed, _ = jax.lax.scan(add, jnp.zeros_like(vector), data)
    return summed / data.valid.sum()


def _as_vector(tree: Params, leaves: LeafPredicate) -> Float[Array, " d"]:
    return jnp.concatenate([leaf.ravel() for leaf in _chosen(tree, leaves)])


def _as_tree(vector: Float[Array, " d"], like: Params, leaves: LeafPredicate) -> Params:
    """Inverse of `_as_vector`; leaves that are left out become 0."""
    flat, structure = jax.tree_util.tree_flatten_with_path(like)
    made, begin = [], 0
    for path, leaf in flat:
        if leaves(_name(path), leaf):
            made.append(vector[begin : begin + leaf.size].reshape(leaf.shape))
            begin += leaf.size
        else:
            made.append(jnp.zeros_like(leaf))
    return jax.tree.unflatten(structure, made)


def _chosen(tree: Params, leaves: LeafPredicate) -> list[Array]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [leaf for path, leaf in flat if leaves(_name(path), leaf)]


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _count(params: Params, leaves: LeafPredicate, products: int) -> int:
    if products < 1:
        raise ValueError(f"need at least one Hessian-vector product, got {products}")
    dimension = sum(leaf.size for leaf in _chosen(params, leaves))
    if not dimension:
        raise ValueError("leaves leaves out every parameter: nothing to take a Hessian of")
    return min(products, dimension)


def _begin(params: Params, key: Key[Array, ""], leaves: LeafPredicate) -> Float[Array, " d"]:
    """Random signs: of all directions the same share."""
    chosen = _chosen(params, leaves)
    size, dtype = sum(leaf.size for leaf in chosen), jnp.result_type(*chosen)
    return jax.random.rademacher(key, (size,), dtype)


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
