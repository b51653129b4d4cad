"""Architectures by name, and modules as pure functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm import models
from rfm.errors import UserError
from rfm.models.resnet import ResNet
from rfm.types import bind

SETTINGS = {"classes": 10, "width": 4, "mean": (0.5,) * 3, "std": (0.25,) * 3}


@pytest.fixture(scope="module")
def model() -> ResNet:
    return ResNet(10, (1,), 4, "relu", (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def variables(model):
    params, batch_stats = models.initialise(model, jax.random.key(0), (8, 8, 3))
    return {"params": params, "batch_stats": batch_stats}


@pytest.mark.parametrize(("name", "stages"), [("resnet18", (2, 2, 2, 2)), ("resnet8", (1, 1, 1))])
def test_create_by_name(name, stages):
    model = models.create(name, **SETTINGS, activation="mish", dtype="bfloat16")
    assert model == ResNet(10, stages, 4, "mish", (0.5,) * 3, (0.25,) * 3, dtype=jnp.bfloat16)


def test_a_model_is_a_static_argument():
    """Also with statistics from a config, which come as lists."""
    listed = models.create("resnet8", **SETTINGS | {"mean": [0.5] * 3, "std": [0.25] * 3})
    assert listed == models.create("resnet8", **SETTINGS)
    assert hash(listed) == hash(models.create("resnet8", **SETTINGS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "resnet20"},
            "model.name 'resnet20' is not one of dm_wrn28, .*; did you mean 'resnet50'",
        ),
        ({"name": "vgg"}, "model.name 'vgg' is not one of .*, wrn34$"),
        ({"activation": "gelo"}, "model.activation 'gelo' is not one of .*; did you mean 'gelu'"),
        ({"dtype": "bfloat"}, "model.dtype 'bfloat' is not one of .*; did you mean 'bfloat16'"),
        ({"width": 0}, "model.width must be at least 1, got 0"),
        ({"cosine_scale": -1.0}, "model.cosine_scale must be a number from 0 up, got -1.0"),
        ({"cosine_scale": float("nan")}, "model.cosine_scale must be .*, got nan"),
    ],
)
def test_mistakes_are_told_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        models.create(**{"name": "resnet8", **SETTINGS, **settings})
    assert "\n" not in str(caught.value)


def test_initialise(model, variables):
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    params, _ = models.initialise(model, jax.random.key(0), (8, 8, 3))
    jax.tree.map(np.testing.assert_array_equal, params, variables["params"])
    other, _ = models.initialise(model, jax.random.key(1), (8, 8, 3))
    assert (other["stem"]["conv"]["kernel"] != params["stem"]["conv"]["kernel"]).any()


def test_apply_fn_is_evaluation_mode(model, variables, crops):
    x, _ = crops(8, 8)
    apply_fn = models.apply_fn(model, variables["batch_stats"])
    expected = model.apply(variables, x, train=False)
    np.testing.assert_allclose(apply_fn(variables["params"], x), expected, rtol=1e-4, atol=1e-5)


def test_snapshots_share_one_compilation(model, variables, crops):
    x, _ = crops(4, 8)
    traces = []

    @jax.jit
    def run(logits_fn, x):
        traces.append(1)
        return logits_fn(x)

    for s in (1.0, 1.1, 1.2):
        snapshot = jax.tree.map(lambda leaf, s=s: s * leaf, variables)
        again = model.clone()  # another object that is the same
        run(bind(models.apply_fn(again, snapshot["batch_stats"]), snapshot["params"]), x)
    assert len(traces) == 1


def test_train_fn_normalises_by_the_batch_and_returns_new_statistics(model, variables, crops):
    x, _ = crops(8, 8)
    logits, batch_stats = jax.jit(models.train_fn(model))(variables, x, {})
    assert logits.shape == (8, 10)
    assert jax.tree.structure(batch_stats) == jax.tree.structure(variables["batch_stats"])
    white = (x - 0.5) / 0.25
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    layout = ("NHWC", "HWIO", "NHWC")
    stem = jax.lax.conv_general_dilated(white, kernel, (1, 1), "SAME", dimension_numbers=layout)
    found = batch_stats["stem_norm"]
    np.testing.assert_allclose(found["mean"], 0.1 * stem.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * stem.var((0, 1, 2)), rtol=1e-3)
    alone, _ = jax.jit(models.train_fn(model))(variables, x[:4], {})
    assert np.abs(alone - logits[:4]).max() > 1e-3  # examples do mix here


def test_train_fn_over_a_mapped_axis_is_that_of_the_whole_batch(model, variables, crops, spread):
    x, _ = crops(8, 8)
    images = spread(x)
    mesh, data = images.sharding.mesh, images.sharding.spec
    train_fn = models.train_fn(model, axis_name="data")
    mapped = jax.shard_map(
        lambda variables, x: train_fn(variables, x, {}),
        mesh=mesh,
        in_specs=(jax.P(), data),
        out_specs=(data, jax.P()),
    )
    logits, batch_stats = jax.jit(mapped)(variables, images)
    expected, whole = jax.jit(models.train_fn(model))(variables, x, {})
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), batch_stats, whole
    )
