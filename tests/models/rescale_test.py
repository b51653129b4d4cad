"""Rescaling: the same function with other weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm import models
from rfm.models.rescale import convolutions_before_norm, rescale, rescale_pair

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")


@pytest.fixture(scope="module")
def module():
    return models.create("resnet8", classes=5, width=2, mean=(0.5,) * 3, std=(0.2,) * 3)


@pytest.fixture
def variables(module):
    """Statistics and scales as after training: none of them what it begins with."""
    params, stats = models.initialise(module, jax.random.key(0), (8, 8, 3))

    def other(leaf):
        values = np.asarray(leaf, np.float64)
        return values + 0.3 * np.cos(np.arange(values.size)).reshape(values.shape)

    return jax.tree.map(other, params), jax.tree.map(lambda v: np.abs(other(v)) + 1e-4, stats)


X = np.random.default_rng(0).uniform(size=(3, 8, 8, 3))


@pytest.mark.parametrize("factor", [0.5, 2.0, 1e-3, 1e3])
def test_the_function_stays_the_same(module, variables, factor):
    params, stats = variables
    new, new_stats = rescale(params, stats, factor)
    expected = models.apply_fn(module, stats)(params, X)
    found = models.apply_fn(module, new_stats)(new, X)
    np.testing.assert_allclose(
        found, expected, rtol=1e-4, atol=1e-5
    )  # the network computes in float32


def test_exactly_the_convolutions_are_multiplied(variables):
    params, stats = variables
    new, _ = rescale(params, stats, 0.5)
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    for path, leaf in flat:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        (now,) = (v for p, v in jax.tree_util.tree_flatten_with_path(new)[0] if p == path)
        if name.endswith("conv/kernel"):
            np.testing.assert_allclose(now, 0.5 * leaf)
        elif not name.endswith("scale"):
            np.testing.assert_array_equal(now, leaf)


def test_back_and_forth_is_where_it_was(variables):
    params, stats = variables
    again = rescale(*rescale(params, stats, 0.25), 4.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), again, variables)


def test_all_convolutions_have_a_normalisation(variables):
    pairs = convolutions_before_norm(variables[0])
    kernels = [v for v in jax.tree.leaves(variables[0]) if np.ndim(v) == 4]
    assert len(pairs) == len(kernels) == 9
    assert pairs["stem"] == "stem_norm"
    assert pairs["stage2_block1/conv_skip"] == "stage2_block1/norm_skip"


WHITE = {"mean": (0.5,) * 3, "std": (0.2,) * 3}


@pytest.mark.parametrize("name", ["resnet50", "preact_resnet18", "wrn28", "dm_wrn70"])
def test_the_function_of_every_architecture_stays_the_same(name):
    """In the wide ones all convolutions are multiplied, in `preact_resnet18` 8 of 20."""
    model = models.create(name, classes=5, width=2, **WHITE).clone(dtype=jnp.float64)
    if name == "dm_wrn70":  # ten blocks a stage are more than one digit
        model = model.clone(stages=(11, 1, 1))
    params, stats = filled(model)
    pairs = convolutions_before_norm(params)
    kernels = [leaf for leaf in jax.tree.leaves(params) if np.ndim(leaf) == 4]
    assert len(pairs) == (8 if name == "preact_resnet18" else len(kernels))
    new, new_stats = rescale(params, stats, 0.5)

    @jax.jit
    def logits(params, stats):
        return models.apply_fn(model, stats)(params, X)

    expected = logits(params, stats)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits(new, new_stats), expected, rtol=1e-8, atol=1e-8)
    for convolution in pairs:
        path = (*convolution.split("/"), "conv", "kernel")
        np.testing.assert_array_equal(at(new, path), 0.5 * np.asarray(at(params, path)))


def filled(model):
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "var":
            return 0.5 + values**2
        return values * (np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.2)

    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    return variables["params"], variables["batch_stats"]


def at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def test_each_normalisation_of_a_wide_network_is_the_next_one():
    shapes = jax.eval_shape(
        models.create("dm_wrn70", classes=5, width=2, **WHITE).init, jax.random.key(0), X
    )
    pairs = convolutions_before_norm(shapes["params"])
    assert pairs["stem"] == "stage1_block1/norm1"
    assert pairs["stage1_block1/conv1"] == "stage1_block1/norm2"
    assert pairs["stage1_block1/conv2"] == pairs["stage1_block1/conv_skip"] == "stage1_block2/norm1"
    assert pairs["stage1_block9/conv2"] == "stage1_block10/norm1"
    assert pairs["stage1_block11/conv2"] == "stage2_block1/norm1"
    assert pairs["stage3_block11/conv2"] == "final_norm"
    assert len(set(pairs.values())) == sum("norm" in name for name in names(shapes["params"]))


def names(params):
    flat = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path[:-1], simple=True, separator="/") for path, _ in flat}


def test_flax_networks_with_their_own_batch_norm():
    """Biases are multiplied, too; the scale has no offset."""
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(3, (3, 3), name="conv")(x)
            x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x)
            return nn.Dense(4)(nn.relu(x).mean((1, 2)))

    variables = Net().init(jax.random.key(0), X)
    variables = jax.tree.map(lambda v: np.abs(np.asarray(v, np.float64)) + 0.2, variables)
    new, stats = rescale(
        variables["params"], variables["batch_stats"], 3.0,
        convolutions={"conv": "bn"}, epsilon=1e-3, scale_offset=0.0,
    )  # fmt: skip
    found = Net().apply({"params": new, "batch_stats": stats}, X)
    np.testing.assert_allclose(found, Net().apply(variables, X), rtol=1e-9)
    np.testing.assert_allclose(new["conv"]["bias"], 3 * variables["params"]["conv"]["bias"])


@pytest.mark.parametrize("alpha", [0.1, 10.0])
def test_two_relu_layers(alpha):
    rng = np.random.default_rng(0)
    params = {
        "a": {"kernel": rng.normal(size=(12, 6)), "bias": rng.normal(size=6)},
        "b": {"kernel": rng.normal(size=(6, 4)), "bias": rng.normal(size=4)},
    }

    def network(params, x):
        hidden = jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"])
        return hidden @ params["b"]["kernel"] + params["b"]["bias"]

    new, x = rescale_pair(params, "a", "b", alpha), rng.normal(size=(5, 12))
    np.testing.assert_allclose(network(new, x), network(params, x), rtol=1e-9)
    np.testing.assert_allclose(new["a"]["bias"], alpha * params["a"]["bias"])
    np.testing.assert_array_equal(new["b"]["bias"], params["b"]["bias"])


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_factors_are_told(variables, factor):
    with pytest.raises(ValueError, match="positive and finite"):
        rescale(*variables, factor)


def test_unknown_paths_are_told(variables):
    with pytest.raises(ValueError, match="no convolution 'conv' with a normalisation 'bn'"):
        rescale(*variables, 2.0, convolutions={"conv": "bn"})
    with pytest.raises(ValueError, match="no layers 'x' and 'head'"):
        rescale_pair(variables[0], "x", "head", 2.0)
    with pytest.raises(ValueError, match="no normalisation 'norm1' beside"):
        rescale({"block": {"conv1": {"conv": {"kernel": jnp.ones((1, 1, 1, 1))}}}}, {}, 2.0)
