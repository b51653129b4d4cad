"""The mesh: as many devices as divide the batch."""

import jax
import numpy as np

from rfm.devices import make_mesh, replicate, shard


def test_mesh_divides_the_batch():
    available = jax.device_count()
    for batch in (1, 3, 6, 128, 130):
        size = make_mesh(batch).size
        assert batch % size == 0
        assert not any(batch % d == 0 for d in range(size + 1, available + 1))


def test_layouts():
    mesh = make_mesh(8)
    x = np.arange(8)
    assert shard(x, mesh).addressable_shards[0].data.shape == (8 // mesh.size,)
    assert replicate(x, mesh).is_fully_replicated
