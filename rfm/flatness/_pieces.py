"""Measures are made of pieces that are independent: one batch under one draw, say."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from rfm import devices

Piecework = Callable[[Any, Any, Any, Any], PyTree]


def results(
    function: Piecework,
    settings: Any,
    shared: PyTree,
    pieces: Iterable[tuple[PyTree, PyTree]],
    *,
    mesh: Mesh | None,
    compiled: bool,
) -> Iterator[PyTree]:
    """``function(settings, shared, examples, draw)`` of every piece, in order, on the host.

    Compiled, all pieces share one program, and every device of the mesh does a piece of its
    own. (Measured on two CPU cores, ResNet-18: as fast as to cut every batch in two, but the
    numbers do not depend on the devices. Several draws in one dispatch by `lax.map` are no
    faster than one, and draws mapped by `jax.vmap` take eight times as long. What is best on
    a GPU, `benchmarks.mapping` measures.) Otherwise `function`, whose parts are compiled,
    does the pieces one after the other, each cut over the devices.

    Args:
      function: a function of a module; compiled once for each `settings` and mesh.
      settings: what is static, hashable.
      shared: what all pieces need, such as the weights.
      pieces: pairs of trees, all of the same shapes: arrays of examples, along the first axis,
        and what is of no example, such as the number of a draw.
      mesh: the devices; None: the default one.
      compiled: whether loops over the network may be compiled, see `rfm.loops`.
    """
    shared = devices.replicate(shared, mesh)
    if not compiled:
        for piece in pieces:
            examples, draw = devices.shard(piece[0], mesh), devices.replicate(piece[1], mesh)
            yield devices.fetch(function(settings, shared, examples, draw))
        return
    width, waiting = 1 if mesh is None else mesh.size, iter(pieces)
    while group := list(itertools.islice(waiting, width)):
        filled = group + group[-1:] * (width - len(group))
        stacked = devices.shard(jax.tree.map(_stack, *filled), mesh)
        found = devices.fetch(_each(function, settings, mesh, shared, stacked))
        for index in range(len(group)):
            yield jax.tree.map(lambda leaf, i=index: leaf[i], found)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _each(
    function: Piecework,
    settings: Any,
    mesh: Mesh | None,
    shared: PyTree,
    pieces: PyTree,
) -> PyTree:
    def one(shared: PyTree, piece: tuple[PyTree, PyTree]) -> PyTree:
        return function(settings, shared, *piece)

    return devices.each(one, shared, pieces, mesh)


def _stack(*leaves: Any) -> Any:
    return (jnp if isinstance(leaves[0], jax.Array) else np).stack(leaves)
