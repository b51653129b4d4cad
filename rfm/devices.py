"""Which devices work together, and how arrays are laid out on them.

There is one mesh with one axis, `data`: batches are cut along it, parameters are
copied to every device. A program for one device and for many is the same program.
"""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXIS = "data"


def make_mesh(batch_size: int) -> Mesh:
    """A mesh over as many devices as divide `batch_size` evenly, at most all."""
    devices = jax.devices()
    count = max(d for d in range(1, len(devices) + 1) if batch_size % d == 0)
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """`tree` on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(tree: PyTree, mesh: Mesh) -> PyTree:
    """`tree` cut along the first axis of each array, which the mesh must divide."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(AXIS)))
