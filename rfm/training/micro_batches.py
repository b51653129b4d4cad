"""A batch in pieces, for the sake of memory: which example is in which."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


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
