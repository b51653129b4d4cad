"""A batch in chunks, one after the other, for the sake of memory."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree


def in_chunks(
    function: Callable[..., tuple[PyTree, PyTree]], chunk: int | None, rows: tuple[Any, ...]
) -> tuple[PyTree, PyTree]:
    """``function(*rows)`` of at most `chunk` rows at a time.

    Args:
      function: of trees with so many rows each; returns a tree that is summed over chunks, and
        one with as many rows. Rows of zeros (a mask that is false among them) must add nothing
        to the sum: they fill up the last chunk.
      chunk: the largest number of rows; None: all at once.
      rows: the trees, n rows each.

    Returns:
      The sum, and the rows in their order.
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    count = 1 if chunk is None else math.ceil(n / chunk)
    if count == 1:
        return function(*rows)
    missing = -n % count
    rows = jax.tree.map(lambda v: jnp.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)), rows)
    # Interleaved: a batch that is cut over devices stays cut in the same way.
    cut = jax.tree.map(lambda v: jnp.moveaxis(v.reshape(-1, count, *v.shape[1:]), 1, 0), rows)
    shapes, _ = jax.eval_shape(lambda piece: function(*piece), jax.tree.map(lambda v: v[0], cut))
    zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes)

    def add(total: PyTree, piece: tuple[Any, ...]) -> tuple[PyTree, PyTree]:
        summed, found = function(*piece)
        return jax.tree.map(jnp.add, total, summed), found

    total, found = lax.scan(add, zeros, cut)
    back = jax.tree.map(
        lambda v: jnp.moveaxis(v, 0, 1).reshape(n + missing, *v.shape[2:])[:n], found
    )
    return total, back
