"""Residual networks for small images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm import models
from rfm.models.resnet import ResNet, resnet8, resnet18

CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.262)}
GREY = {"mean": (0.3,), "std": (0.4,)}


def shapes(model, *size):
    """Of variables, and of logits; nothing is computed."""
    x = jax.ShapeDtypeStruct(size, jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return variables, jax.eval_shape(model.apply, variables, x)


def random_variables(model, x):
    """Filled by NumPy, as compiling `init` takes long."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "kernel":
            values *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif path[-1].key == "var":
            values = 0.5 + values**2
        else:
            values *= 0.1
        return values.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes(model, *x.shape)[0])


def small(**settings):
    return ResNet(**{"classes": 10, "stages": (1, 1), "width": 4, "activation": "relu", **settings})


@pytest.mark.parametrize(
    ("width", "classes", "parameters"),
    [
        (64, 10, 11_173_962),  # the ResNet-18 for CIFAR-10 that everybody uses
        (64, 100, 11_220_132),
        (16, 10, 701_466),
    ],
)
def test_resnet18_has_the_parameters_of_the_original(width, classes, parameters):
    model = resnet18(classes=classes, width=width, activation="relu", **CIFAR10)
    variables, logits = shapes(model, 2, 32, 32, 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert logits.shape == (2, classes)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [
        # 23.5M: kuangliu/pytorch-cifar's ResNet50.
        ("resnet50", 64, 23_520_842),
        # 11.17M: PreActResNet18 there, which has no final normalisation either.
        ("preact_resnet18", 64, 11_171_146),
        # 36.5M: Zagoruyko and Komodakis (2016), Table 4.
        ("wrn28", 160, 36_479_194),
        # 46.16M and 184.5M: RobustBench's WRN-34-10 and WRN-34-20, without sub_block1.
        ("wrn34", 160, 46_160_474),
        ("wrn34", 320, 184_531_674),
        # 267M: Gowal et al. (2020), Table 3.
        ("dm_wrn28", 160, 36_479_194),
        ("dm_wrn34", 320, 184_531_674),
        ("dm_wrn70", 256, 266_796_506),
    ],
)
def test_the_zoo_has_the_parameters_of_the_originals(name, width, parameters):
    model = models.create(name, classes=10, width=width, activation="silu", **CIFAR10)
    variables, logits = shapes(model, 2, 32, 32, 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert logits.shape == (2, 10)


@pytest.mark.parametrize("size", [8, 28, 32])
def test_resnet8_takes_small_grey_images(size):
    model = resnet8(classes=7, width=8, activation="silu", **GREY)
    variables, logits = shapes(model, 3, size, size, 1)
    assert logits.shape == (3, 7)
    convolutions = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
    assert len(convolutions) == 1 + 3 * 2 + 2  # the stem, two a block, two skips


def test_stages_halve_the_resolution_and_double_the_channels():
    model = resnet18(classes=10, width=64, activation="relu", **CIFAR10)
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def intermediates(key, x):
        variables = model.init(key, x)
        return model.apply(variables, x, capture_intermediates=True)[1]["intermediates"]

    found = jax.eval_shape(intermediates, jax.random.key(0), x)
    for stage, (size, channels) in enumerate([(32, 64), (16, 128), (8, 256), (4, 512)], start=1):
        for block in (1, 2):
            (output,) = found[f"stage{stage}_block{block}"]["__call__"]
            assert output.shape == (2, size, size, channels)


def test_only_the_head_has_a_bias_and_every_convolution_a_normalisation():
    model = resnet18(classes=10, width=16, activation="relu", **CIFAR10)
    variables, _ = shapes(model, 2, 32, 32, 3)
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    ]
    convolutions = [path for path in paths if path.endswith("/conv/kernel")]
    scales = [path for path in paths if path.endswith("/scale")]
    biases = [path for path in paths if path.endswith("/bias") and "norm" not in path]
    assert len(convolutions) == len(scales) == 20
    assert biases == ["head/bias"]


@pytest.mark.parametrize(("name", "width"), [("wrn28", 160), ("dm_wrn34", 64)])
def test_wide_networks_have_three_stages_behind_a_stem_of_16_channels(name, width):
    model = models.create(name, classes=10, width=width, **CIFAR10)
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def intermediates(key, x):
        variables = model.init(key, x)
        return model.apply(variables, x, capture_intermediates=True)[1]["intermediates"]

    found = jax.eval_shape(intermediates, jax.random.key(0), x)
    assert found["stem"]["__call__"][0].shape == (2, 32, 32, 16)
    for stage, (size, factor) in enumerate([(32, 1), (16, 2), (8, 4)], start=1):
        (output,) = found[f"stage{stage}_block1"]["__call__"]
        assert output.shape == (2, size, size, factor * width)


def test_a_cosine_head_has_bare_cosines_at_scale_1(crops):
    x, _ = crops(4, 8)
    model, scaled = (small(**CIFAR10, cosine_scale=scale) for scale in (1.0, 15.0))
    variables = random_variables(model, x)
    assert set(variables["params"]["head"]) == {"kernel"}
    logits = jax.jit(model.apply)(variables, x)
    assert (np.abs(logits) <= 1 + 1e-6).all() and np.ptp(logits) > 0.1
    np.testing.assert_allclose(jax.jit(scaled.apply)(variables, x), 15 * logits, rtol=1e-5)
    rotations = small(**CIFAR10, cosine_scale=1.0, rotation_head=True)
    _, found = shapes(rotations, *x.shape)
    assert found.shape == (4, 14)


def test_whitening_is_inside(crops):
    x, _ = crops(4, 8)
    mean, std = np.array(CIFAR10["mean"]), np.array(CIFAR10["std"])
    inside = small(**CIFAR10)
    outside = small(mean=(0.0,) * 3, std=(1.0,) * 3)
    variables = random_variables(inside, x)
    expected = jax.jit(outside.apply)(variables, ((x - mean) / std).astype(np.float32))
    found = jax.jit(inside.apply)(variables, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(found) > 0.1


def test_in_evaluation_mode_examples_do_not_mix(crops):
    x, _ = crops(8, 8)
    model = small(**CIFAR10)
    variables = random_variables(model, x)
    evaluate = jax.jit(model.apply)
    np.testing.assert_allclose(
        evaluate(variables, x)[:4], evaluate(variables, x[:4]), rtol=1e-4, atol=1e-4
    )


def test_half_precision_is_inside(crops):
    """Parameters and logits stay float32; logits agree to the digits that bfloat16 has."""
    x, _ = crops(8, 8)
    full, half = small(**CIFAR10), small(**CIFAR10, dtype=jnp.bfloat16)
    variables = random_variables(full, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(half, *x.shape)[0])} == {
        jnp.float32.dtype
    }
    found, expected = jax.jit(half.apply)(variables, x), jax.jit(full.apply)(variables, x)
    assert found.dtype == jnp.float32
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.03
    assert (found != expected).any()
