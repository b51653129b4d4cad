"""A batch in pieces, for the sake of memory: which example is in which, and what they add up to."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from rfm.training.optimiser import Gradient
from rfm.types import Params


def mapped(make: Callable[..., PyTree], count: int) -> Callable[..., PyTree]:
    """``make(params, batch_stats, *rows)`` of one micro-batch after the other, rows joined."""
    if count == 1:
        return make

    def all_of(params: Params, batch_stats: PyTree, *rows: PyTree) -> PyTree:
        return join(jax.lax.map(lambda piece: make(params, batch_stats, *piece), cut(rows, count)))

    return all_of


def mean_gradient(
    gradient: Callable[..., Gradient], count: int, axis_name: str
) -> Callable[..., Gradient]:
    """The mean over micro-batches; running statistics go through them in order.

    Args:
      gradient: a function of parameters, batch statistics, examples and a key.
      count: of micro-batches.
      axis_name: mapped axis that the batch is cut over.

    Returns:
      A function of the same.
    """

    def of_batch(
        params: Params, batch_stats: PyTree, examples: Any, key: Key[Array, ""]
    ) -> Gradient:
        whole = jax.lax.psum(jax.tree.leaves(examples)[0].shape[0], axis_name)
        key = jax.random.fold_in(key, whole)  # examples have the numbers below
        if count == 1:
            return gradient(params, batch_stats, examples, key)

        def add(carry: Gradient, piece: tuple[Any, Array]) -> tuple[Gradient, None]:
            rows, number = piece
            found = gradient(params, carry.batch_stats, rows, jax.random.fold_in(key, number))
            summed, metrics = jax.tree.map(
                jnp.add, (carry.gradient, carry.metrics), (found.gradient, found.metrics)
            )
            return Gradient(summed, found.batch_stats, metrics), None

        pieces = cut(examples, count), jnp.arange(count)
        first = jax.tree.map(lambda v: v[0], pieces[0])
        shapes = jax.eval_shape(gradient, params, batch_stats, first, key)
        zeros: Gradient = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros._replace(batch_stats=batch_stats), pieces)
        mean, metrics = jax.tree.map(lambda v: v / count, (total.gradient, total.metrics))
        return Gradient(mean, total.batch_stats, metrics)

    return of_batch


def cut(rows: PyTree, count: int) -> PyTree:
    """Micro-batches along a new first axis: pair i of examples goes to micro-batch i % count.

    So they are the same however a batch is cut over devices, and halves of a batch that
    alternate (rotated ones, pseudo-labelled ones) are halves of each micro-batch.
    """

    def cut_one(v: Array) -> Array:
        return jnp.moveaxis(v.reshape(-1, count, 2, *v.shape[1:]), 1, 0).reshape(
            count, -1, *v.shape[1:]
        )

    return jax.tree.map(cut_one, rows)


def join(pieces: PyTree) -> PyTree:
    """The inverse of `cut`."""

    def join_one(v: Array) -> Array:
        pairs = v.reshape(v.shape[0], -1, 2, *v.shape[2:])
        return jnp.moveaxis(pairs, 0, 1).reshape(-1, *v.shape[2:])

    return jax.tree.map(join_one, pieces)
