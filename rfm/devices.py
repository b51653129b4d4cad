"""Which devices work together, and how work is laid out on them.

A mesh says which devices; no mesh means the default device. Work is spread in two ways:

- `shard` cuts a batch along its first axis: every device does its part of the examples.
  For what a batch must do together, such as a step of training.
- `each` gives every device a piece of work of its own. For what is independent, such as
  the draws of a flatness measure: nothing is exchanged, and as every piece is computed by
  one device as a whole, results are the same on any number of devices.

The command line makes one mesh with one axis, `data`. A program for one device and for many
is the same program, and so is one for several processes (`jax.distributed`), each with devices
of its own: every process gives the same values to `shard` and `replicate`, of which its
devices take their parts, and `fetch` brings what was computed to all of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXIS = "data"


def make_mesh(batch_size: int) -> Mesh:
    """A mesh over as many devices as divide `batch_size` evenly, at most all.

    Raises:
      ValueError: there are several processes, and not all of their devices can take part.
    """
    devices = jax.devices()
    count = max(d for d in range(1, len(devices) + 1) if batch_size % d == 0)
    if jax.process_count() > 1 and count < len(devices):
        raise ValueError(
            f"batches of {batch_size} cannot be cut evenly over the {len(devices)} devices of"
            f" {jax.process_count()} processes; a multiple of {len(devices)} can"
        )
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """`tree` on every device of the mesh."""
    return _put(tree, mesh, ())


def shard(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """`tree` cut along the first axis of each array, which the mesh must divide."""
    return _put(tree, mesh, () if mesh is None else (mesh.axis_names,))


def fetch(tree: PyTree) -> PyTree:
    """`tree` on the host, each array whole, wherever its parts are."""
    gathered = jax.tree.map(_gather, tree)
    return jax.device_get(gathered)


def each(
    function: Callable[[Any, Any], PyTree], shared: PyTree, items: PyTree, mesh: Mesh | None
) -> PyTree:
    """``function(shared, item)`` for every leading index of `items`, stacked. Pure.

    The mesh must divide the number of items. Those of one device follow one another: mapped
    weights (`jax.vmap`) would make grouped convolutions, eight times slower on CPU.
    """

    def on_device(shared: PyTree, items: PyTree) -> PyTree:
        return lax.map(lambda item: function(shared, item), items)

    if mesh is None or mesh.size == 1:
        return on_device(shared, items)
    cut = PartitionSpec(mesh.axis_names)
    spread = jax.shard_map(
        on_device,
        mesh=_plain(mesh),
        in_specs=(PartitionSpec(), cut),
        out_specs=cut,
        check_vma=False,
    )
    return spread(shared, items)


def _plain(mesh: Mesh) -> Mesh:
    """The same devices; XLA is free to choose layouts inside of a program."""
    return Mesh(mesh.devices, mesh.axis_names)


def _put(tree: PyTree, mesh: Mesh | None, spec: tuple[Any, ...]) -> PyTree:
    if mesh is None:
        return jax.device_put(tree)
    sharding = NamedSharding(_plain(mesh), PartitionSpec(*spec))
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(functools.partial(_spread, sharding), tree)


def _spread(sharding: NamedSharding, leaf: Any) -> jax.Array:
    """This process's part of an array that all processes have, or are computing."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return _moved_to(sharding)(leaf)
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    whole = leaf if is_key else np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])


@functools.lru_cache(maxsize=32)
def _moved_to(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda v: v, out_shardings=sharding)


def _gather(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    return multihost_utils.process_allgather(leaf, tiled=True)
