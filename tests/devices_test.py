"""The mesh, and how work is laid out on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from rfm.devices import each, make_mesh, replicate, shard


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


def test_no_mesh_is_the_default_device():
    for layout in (shard, replicate):
        placed = layout({"x": np.arange(8)}, None)["x"]
        assert placed.devices() == {jax.devices()[0]}


def weigh(scale, item):
    return {"sum": scale * item["x"].sum(), "first": item["x"][0] + item["n"]}


@pytest.fixture
def meshes(four_devices) -> list[Mesh | None]:
    """None, several devices, two axes, and what `jax.make_mesh` makes by default."""
    default = jax.make_mesh((2,), ("any",), devices=jax.devices()[:2])
    return [None, four_devices, Mesh(four_devices.devices.reshape(2, 2), ("a", "b")), default]


def test_each_is_a_loop_over_items(meshes):
    items = {"x": np.random.default_rng(0).normal(size=(8, 3)), "n": np.arange(8)}
    expected = [weigh(2.0, jax.tree.map(lambda v, i=i: v[i], items)) for i in range(8)]
    expected = jax.tree.map(lambda *v: np.stack(v), *expected)
    for mesh in meshes:
        run = jax.jit(functools.partial(each, weigh, mesh=mesh))
        placed = replicate(jnp.float32(2), mesh), shard(items, mesh)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6), run(*placed), expected
        )


def test_every_device_has_items_of_its_own(four_devices):
    found = jax.jit(functools.partial(each, weigh, mesh=four_devices))(
        replicate(jnp.float32(1), four_devices),
        shard({"x": np.ones((8, 3)), "n": np.arange(8)}, four_devices),
    )
    assert len(found["sum"].sharding.device_set) == 4
    assert found["sum"].addressable_shards[0].data.shape == (2,)
