"""Products with the Hessian of the mean loss, which is never formed.

    H v = d/dw <d/dw L(w), v>

is a derivative in reverse over reverse, summed batch by batch: memory holds the inputs of all
examples, but the activations of one batch only.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from rfm import losses
from rfm.batching import batches
from rfm.devices import shard
from rfm.types import Images, Labels, Params, PerExample, leaf_name

LeafPredicate = Callable[[str, Array], bool]
"""Is the leaf at a path ("block_0/conv/kernel") one of the Hessian's variables?"""


def all_leaves(path: str, leaf: Array) -> bool:
    """Every parameter."""
    return True


def several_dimensions(path: str, leaf: Array) -> bool:
    """Kernels alone: the choice of the released code behind Table A."""
    return leaf.ndim > 1


class Data(NamedTuple):
    """Batches along the second axis, so that the first can be cut over devices."""

    x: Float[Array, "batch batches h w c"]
    y: Array
    valid: Bool[Array, "batch batches"]


def stacked(
    x: Images | np.ndarray, y: Labels | np.ndarray, batch_size: int, mesh: Mesh | None
) -> Data:
    """All examples on the devices, in batches of one size."""
    cut = list(batches(len(x), min(batch_size, len(x)) if mesh is None else batch_size))
    rows = np.stack([batch.indices for batch in cut], axis=1)
    valid = np.stack([batch.valid for batch in cut], axis=1)
    return Data(*shard((np.asarray(x)[rows], np.asarray(y)[rows], valid), mesh))


def hessian_product(
    apply_fn: Any, params: Params, data: Data, vector: Array, leaves: LeafPredicate
) -> Array:
    """``H v`` of the mean loss, batch by batch (the first axis of `data`)."""
    direction = as_tree(vector, params, leaves)

    def add(sum_so_far: Array, batch: Data) -> tuple[Array, None]:
        shares = batch.valid.astype(vector.dtype)
        product = jax.grad(_slope, 1)(apply_fn, params, batch, direction, shares)
        return sum_so_far + as_vector(product, leaves), None

    summed, _ = jax.lax.scan(add, jnp.zeros_like(vector), data)
    return summed / data.valid.sum()


@functools.partial(jax.jit, static_argnums=4)
def quadratic_forms(
    apply_fn: Any, params: Params, data: Data, vector: Array, leaves: LeafPredicate
) -> Float[Array, "batches batch"]:
    """``v H_i v`` of every example's loss."""
    data = jax.tree.map(lambda v: jnp.moveaxis(v, 1, 0), data)
    direction = as_tree(vector, params, leaves)

    def bend(shares: Array, batch: Data) -> Array:
        product = jax.grad(_slope, 1)(apply_fn, params, batch, direction, shares)
        return _dot(product, direction)

    def of_batch(batch: Data) -> Array:  # linear in the shares: its gradient is the forms
        return jax.grad(bend)(jnp.ones(batch.valid.shape, vector.dtype), batch)

    return jax.lax.map(of_batch, data)


def _slope(
    apply_fn: Any, params: Params, batch: Data, direction: Params, shares: Float[Array, " n"]
) -> Array:
    """Derivative of the sum of losses, times `shares`, along a direction."""

    def total(params: Params) -> Array:
        loss: PerExample = losses.cross_entropy(apply_fn(params, batch.x), batch.y)
        return jnp.where(shares == 0, 0.0, shares * loss).sum()

    return _dot(jax.grad(total)(params), direction)


def _dot(a: Params, b: Params) -> Array:
    return jnp.sum(jnp.stack(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b))))


def as_vector(tree: Params, leaves: LeafPredicate) -> Float[Array, " d"]:
    return jnp.concatenate([leaf.ravel() for leaf in chosen(tree, leaves)])


def as_tree(vector: Float[Array, " d"], like: Params, leaves: LeafPredicate) -> Params:
    """Inverse of `as_vector`; leaves that are left out become 0."""
    flat, structure = jax.tree_util.tree_flatten_with_path(like)
    made, begin = [], 0
    for path, leaf in flat:
        if leaves(leaf_name(path), leaf):
            made.append(vector[begin : begin + leaf.size].reshape(leaf.shape))
            begin += leaf.size
        else:
            made.append(jnp.zeros_like(leaf))
    return jax.tree.unflatten(structure, made)


def chosen(tree: Params, leaves: LeafPredicate) -> list[Array]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [leaf for path, leaf in flat if leaves(leaf_name(path), leaf)]


def dimension_of(params: Params, leaves: LeafPredicate) -> int:
    dimension = sum(leaf.size for leaf in chosen(params, leaves))
    if not dimension:
        raise ValueError("leaves leaves out every parameter: nothing to take a Hessian of")
    return dimension
