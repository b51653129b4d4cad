"""Loops that are compiled where that is fast."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm import loops, models
from rfm.attacks import PGD
from rfm.models import exported
from rfm.threat import linf
from rfm.types import bind

on_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="loops are always fast here; run on a CPU to test this"
)


class Ordinary(nn.Module):
    """What anybody would write."""

    @nn.compact
    def __call__(self, x):
        x = jax.nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
        return nn.Dense(10)(nn.Conv(4, (3, 3))(x).mean((1, 2)))


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(jax.nn.relu(nn.Dense(8)(x.reshape(x.shape[0], -1))))


def variables(module: nn.Module, x: np.ndarray) -> dict[str, Any]:
    """Random, made by NumPy: compiling `init` takes longer than all the rest here."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def logits_fn(module: nn.Module, x: np.ndarray) -> jax.tree_util.Partial:
    return jax.tree_util.Partial(module.apply, variables(module, x))


@pytest.mark.parametrize("compiled", [True, False])
def test_repeat(compiled):
    doubled = loops.repeat(lambda c: (c[0] * 2, c[1] + 1), 5, (1.0, 0), compiled=compiled)
    assert tuple(map(float, doubled)) == (32.0, 5.0)
    assert loops.repeat(lambda c: c * 2, 0, 1.5, compiled=compiled) == 1.5


@pytest.mark.parametrize("compiled", [True, False])
def test_map_over_stacks(compiled):
    xs = {"a": jnp.arange(3.0), "keys": jax.random.split(jax.random.key(0), 3)}
    found = loops.map_over(
        lambda x: (x["a"] ** 2, jax.random.normal(x["keys"], (2,))), xs, compiled=compiled
    )
    np.testing.assert_allclose(found[0], [0, 1, 4])
    expected = [jax.random.normal(key, (2,)) for key in xs["keys"]]
    np.testing.assert_allclose(found[1], expected, rtol=1e-6)


@on_cpu
@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
def test_networks_of_rfm_may_loop(name):
    model = models.create(name, classes=10, width=4, mean=(0.5,) * 3, std=(0.25,) * 3)
    x = np.zeros((2, 32, 32, 3), np.float32)
    found = variables(model, x)
    apply_fn = models.apply_fn(model, found["batch_stats"])
    assert loops.runs_fast_in_loops(bind(apply_fn, found["params"]), x)


@on_cpu
def test_ordinary_convolutions_may_not(crops):
    x, _ = crops(2, 16)
    assert not loops.runs_fast_in_loops(logits_fn(Ordinary(), x), x)
    network = logits_fn(Ordinary(), x)
    assert not loops.runs_fast_in_loops(jax.jit(lambda x: network(x)), x)  # seen through jit
    assert not loops.runs_fast_in_loops(jax.checkpoint(lambda x: network(x)), x)


@on_cpu
def test_networks_without_convolutions_may_loop(crops):
    x, _ = crops(2, 16)
    assert loops.runs_fast_in_loops(logits_fn(Dense(), x), x)


def test_the_network_is_looked_at_once_per_shape():
    traces = []

    def network(weight, x):
        traces.append(x.shape)
        return x.reshape(len(x), -1) @ weight

    for seed in range(3):
        weight = jax.random.normal(jax.random.key(seed), (12, 2))
        for n in (1, 5):
            loops.runs_fast_in_loops(
                jax.tree_util.Partial(network, weight), jnp.zeros((n, 2, 2, 3))
            )
    if jax.default_backend() == "cpu":
        assert len(traces) == 2


def test_an_ordinary_network_gives_the_same_result_compiled_and_step_by_step(
    crops, x64, quick_compilation
):
    x, y = crops(4, 8)
    x = x.astype(np.float64)
    network = logits_fn(Ordinary(), x)
    found = [
        PGD(linf(8 / 255), 3, 0.01, compiled=compiled)(network, x, y, jax.random.key(0))
        for compiled in (None, True, False)
    ]
    for other in found[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found[0], other)


@on_cpu
@pytest.mark.parametrize(("module", "fast"), [(Ordinary(), False), (Dense(), True)])
def test_an_exported_program_is_looked_at_too(module, fast, tmp_path):
    x = np.zeros((2, 8, 8, 3), np.float32)
    exported.save(tmp_path / "m.npz", module.apply, variables(module, x), image_shape=(8, 8, 3))
    found = exported.load(tmp_path / "m.npz")
    assert loops.runs_fast_in_loops(bind(found.apply_fn, found.params), x) == fast


@on_cpu
def test_without_a_gradient_only_the_forward_pass_counts():
    """Flax writes its forward convolutions in canonical form."""
    x = np.zeros((2, 8, 8, 3), np.float32)
    model = logits_fn(Ordinary(), x)
    assert not loops.runs_fast_in_loops(model, x)
    assert loops.runs_fast_in_loops(model, x, gradient=False)
