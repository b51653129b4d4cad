"""Layers against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rfm.models.layers import ACTIVATIONS, Conv, CosineDense, RebasedBatchNorm, Whiten


def normalised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


@pytest.fixture
def x(crops) -> np.ndarray:
    """Real images, each channel scaled and shifted differently."""
    return crops(8, 6)[0] * np.float32([1, 5, 0.2]) + np.float32([0, -3, 1])


@pytest.fixture
def fresh(x):
    return RebasedBatchNorm().init(jax.random.key(0), x, train=True)


def train(variables, x, **settings):
    return RebasedBatchNorm(**settings).apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("silu", lambda x: x / (1 + np.exp(-x))),  # Eq. (9)
        ("mish", lambda x: x * np.tanh(np.log1p(np.exp(x)))),  # Eq. (10)
        ("gelu", lambda x: x / (1 + np.exp(-1.702 * x))),  # Eq. (11)
    ],
)
def test_activations_of_the_supplement(name, formula):
    x = np.linspace(-8, 8, 1001)
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x)), formula(x), rtol=1e-5, atol=1e-5)


def test_whitening(crops):
    x, _ = crops(4, 8)
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.262)
    found = Whiten(mean, std).apply({}, jnp.asarray(x))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, (x - np.array(mean)) / np.array(std), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (3, 2), (1, 2), (5, 1)])
def test_convolutions_are_padded_by_half_their_size(x, kernel_size, stride):
    module = Conv(4, kernel_size, stride)
    variables = module.init(jax.random.key(0), x)
    (kernel,) = jax.tree.leaves(variables)  # no bias
    assert kernel.shape == (kernel_size, kernel_size, 3, 4)
    pads = [(kernel_size // 2, kernel_size // 2)] * 2
    layout = ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=layout)
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-4)


def test_convolutions_start_with_the_variance_of_he_by_fan_out(x):
    kernel = Conv(256, 3).init(jax.random.key(0), x)["params"]["conv"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 256)), rtol=0.05)
    np.testing.assert_allclose(np.mean(kernel), 0, atol=0.002)


def test_cosines_of_features_and_weights():
    rng = np.random.default_rng(0)
    features, kernel = rng.normal(size=(5, 7)), rng.normal(size=(7, 3))
    lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(kernel, axis=0)
    head = CosineDense(3, 15.0)
    found = head.apply({"params": {"kernel": kernel}}, features)
    np.testing.assert_allclose(found, 15 * (features @ kernel) / lengths, rtol=1e-4, atol=1e-5)


def test_cosines_of_nothing_are_0_with_gradients_that_are_numbers():
    head, kernel = CosineDense(3, 1.0), np.ones((7, 3), np.float32)

    def total(features, kernel):
        return head.apply({"params": {"kernel": kernel}}, features).sum()

    value, gradients = jax.value_and_grad(total, (0, 1))(jnp.zeros((2, 7)), kernel)
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in gradients)


def test_fresh_batch_norm_only_normalises(x, fresh):
    assert not any(leaf.any() for leaf in jax.tree.leaves(fresh["params"]))
    found, _ = train(fresh, x)
    np.testing.assert_allclose(found, normalised(x), rtol=1e-4, atol=1e-4)
    plain = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)
    expected, _ = plain.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_scale_is_an_offset_from_one(x, fresh):
    scale, bias = np.float32([0.5, -0.25, 0.0]), np.float32([1, 0, -2])
    found, _ = train({**fresh, "params": {"scale": scale, "bias": bias}}, x)
    np.testing.assert_allclose(found, normalised(x) * (1 + scale) + bias, rtol=1e-4, atol=1e-4)


def test_decay_and_clipping_pull_the_scale_to_one(x, fresh):
    """Clipped at 0.005, a plain batch norm would be as good as silent."""
    params = {"scale": np.float32([0.5, -0.25, 2.0]), "bias": np.zeros(3, np.float32)}
    clipped = jax.tree.map(lambda leaf: jnp.clip(leaf, -0.005, 0.005), params)
    decayed = jax.tree.map(lambda leaf: leaf * 0.9**100, params)
    for pulled in (clipped, decayed):
        found, _ = train({**fresh, "params": pulled}, x)
        np.testing.assert_allclose(found, normalised(x), rtol=0.006, atol=1e-3)


def test_running_statistics_move_by_a_tenth(x, fresh):
    _, updated = train(fresh, x)
    statistics = updated["batch_stats"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-4)
    _, updated = train({**fresh, **updated}, x)
    mean = updated["batch_stats"]["mean"]
    np.testing.assert_allclose(mean, 0.19 * x.mean((0, 1, 2)), rtol=1e-4)


def test_evaluation_uses_running_statistics_and_keeps_them(x, fresh):
    running = {"mean": np.float32([1, 2, 3]), "var": np.float32([0.5, 4, 1])}
    variables = {**fresh, "batch_stats": running}
    found, updated = RebasedBatchNorm().apply(variables, x, train=False, mutable=["batch_stats"])
    expected = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], running)


def test_half_precision_keeps_statistics_in_float32(x, fresh):
    x = jnp.asarray(x, jnp.bfloat16)
    found, updated = train(fresh, x, dtype=jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    expected = normalised(np.float32(x))
    np.testing.assert_allclose(np.float32(found), expected, rtol=0.02, atol=0.02)


def test_statistics_over_a_mapped_axis_are_those_of_the_whole_batch(x, fresh, spread):
    images = spread(x)
    mesh, data = images.sharding.mesh, images.sharding.spec

    def one_device(variables, x):
        return train(variables, x, axis_name="data")

    mapped = jax.shard_map(
        one_device, mesh=mesh, in_specs=(jax.P(), data), out_specs=(data, jax.P())
    )
    found, updated = jax.jit(mapped)(fresh, images)
    expected, whole = train(fresh, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updated, whole)
