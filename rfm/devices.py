"""Which devices work together, and how work is laid out on them.

A mesh says which devices; no mesh means the default device. Work is spread in two ways:

- `shard` cuts a batch along its first axis: every device does its part of the examples.
  For what a batch must do together, such as a step of training.
- `each` gives every device a piece of work of its own. For what is independent, such as
  the draws of a flatness measure: nothing is exchanged, and as every piece is computed by
  one device as a whole, results are the same on any number of devices.

The command line makes one mesh with one axis, `data`. A program for one device and for many
is the same program.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXIS = "data"


def make_mesh(batch_size: int) -> Mesh:
    """A mesh over as many devices as divide `batch_size` evenly, at most all."""
    devices = jax.devices()
    count = max(d for d in range(1, len(devices) + 1) if batch_size % d == 0)
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """`tree` on every device of the mesh."""
    if mesh is None:
        return jax.device_put(tree)
    return jax.device_put(tree, NamedSharding(_plain(mesh), PartitionSpec()))


def shard(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """`tree` cut along the first axis of each array, which the mesh must divide."""
    if mesh is None:
        return jax.device_put(tree)
    return jax.device_put(tree, NamedSharding(_plain(mesh), PartitionSpec(mesh.axis_names)))


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
