"""Blocks in training: on one device and several, with dropout, twice differentiated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm import losses, models
from rfm.models import blocks, layers
from rfm.models.resnet import ResNet

pytestmark = pytest.mark.usefixtures("quick_compilation")

BLOCKS = ("Block", "Bottleneck", "PreActBlock", "WideBlock", "DeepMindBlock")
WIDE = ("WideBlock", "DeepMindBlock")


def small(name, **settings):
    """Two stages, the second of which strides; smooth, so that gradients can be compared."""
    defaults = {"activation": "silu", "stem_width": 3 * (name in WIDE), "final_norm": name in WIDE}
    defaults |= {"stem_norm": name in BLOCKS[:2], "block": getattr(blocks, name)}
    white = {"mean": (0.49, 0.48, 0.45), "std": (0.25, 0.24, 0.26)}
    return ResNet(classes=10, stages=(1, 1), width=4, **white, **defaults | settings)


def variables(model, dtype=np.float32, seed=0):
    """Filled by NumPy, as compiling `init` takes long."""
    rng = np.random.default_rng(seed)
    x = jnp.zeros((1, 8, 8, 3), dtype)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "var":
            values = 0.5 + values**2
        elif leaf.ndim > 1:
            values *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            values *= 0.2
        return values.astype(dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(fill, shapes)


def trained(model, state, x, y, rngs, axis_name=None):
    """Loss, gradients and new statistics of a training step's forward and backward pass."""
    train_fn = models.train_fn(model, axis_name=axis_name)

    def loss(params):
        logits, stats = train_fn({**state, "params": params}, x, rngs)
        return losses.cross_entropy(logits, y).mean(), stats

    (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(state["params"])
    if axis_name is not None:
        value, gradients = jax.lax.pmean((value, gradients), axis_name)
    return value, gradients, stats


def assert_close(found, expected, rtol):
    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(np.abs(b).max() + 1e-2))

    jax.tree.map(compare, found, expected)


@pytest.mark.parametrize("name", BLOCKS)
def test_training_is_the_same_on_one_device_and_on_several(name, crops, spread):
    """Also with dropout, whose draws go by position in the whole batch."""
    model = small(name, dropout=0.3)
    state, (x, y) = variables(model), crops(8, 8)
    images, labels = spread(x), spread(y)
    mesh, data = images.sharding.mesh, images.sharding.spec
    rngs = {"dropout": jax.random.key(1)}
    mapped = jax.shard_map(
        functools.partial(trained, model, axis_name="data"),
        mesh=mesh,
        in_specs=(jax.P(), data, data, jax.P()),
        out_specs=jax.P(),
        check_vma=False,  # as in `rfm.training.step`
    )
    found = jax.jit(mapped)(state, images, labels, rngs)
    expected = jax.jit(functools.partial(trained, model))(state, x, y, rngs)
    assert_close(found, expected, 2e-4)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected[1]))


@pytest.mark.parametrize("name", ["Bottleneck", "DeepMindBlock"])
def test_computing_blocks_twice_changes_nothing(name, crops):
    state, (x, y) = variables(small(name)), crops(4, 8)
    plain, twice = (
        jax.jit(functools.partial(trained, small(name, remat=remat)))(state, x, y, {})
        for remat in (False, True)
    )
    assert_close(twice, plain, 1e-4)


@pytest.mark.parametrize("name", BLOCKS)
def test_dropout_is_before_the_last_convolution_and_in_training_alone(name, crops):
    x, _ = crops(2, 8)
    model, without = small(name, dropout=0.9), small(name)
    state = variables(model)
    np.testing.assert_array_equal(jax.jit(model.apply)(state, x), jax.jit(without.apply)(state, x))
    last = "conv3" if name == "Bottleneck" else "conv2"
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if last in str(path) else leaf, state
    )

    @jax.jit
    def logits(state):
        rngs = {"dropout": jax.random.key(0)}
        return [models.train_fn(m)(state, x, rngs)[0] for m in (model, without)]

    one, other = logits(state)
    assert np.abs(one - other).max() > 1e-2
    np.testing.assert_allclose(*logits(silent), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["Bottleneck", "PreActBlock", "DeepMindBlock"])
def test_products_with_the_hessian(name, crops, x64):
    """Reverse over reverse, against differences of gradients."""
    model = small(name, dtype=jnp.float64)
    state = variables(model, np.float64)
    direction = variables(model, np.float64, seed=1)["params"]
    x, y = crops(2, 8)
    apply_fn = models.apply_fn(model, state["batch_stats"])

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: losses.cross_entropy(apply_fn(p, x), y).mean())(params)

    @jax.jit
    def product(params):
        def slope(params):
            parts = jax.tree.map(jnp.vdot, gradient(params), direction)
            return sum(jax.tree.leaves(parts))

        return jax.grad(slope)(params)

    step = 1e-5
    ahead, behind = (
        gradient(jax.tree.map(lambda p, d, s=sign: p + s * step * d, state["params"], direction))
        for sign in (1, -1)
    )
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)
    assert_close(product(state["params"]), expected, 1e-6)


@pytest.mark.parametrize("name", BLOCKS)
def test_all_convolutions_are_the_fast_ones(name, monkeypatch):
    seen = []

    def counted(x, kernel, strides, padding, **options):
        seen.append((kernel.shape, tuple(strides), tuple(padding)))
        return original(x, kernel, strides, padding, **options)

    original = layers.conv_general_dilated
    monkeypatch.setattr(layers, "conv_general_dilated", counted)
    model = small(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    kernels = [leaf.shape for leaf in jax.tree.leaves(shapes["params"]) if leaf.ndim == 4]
    assert sorted(shape for shape, *_ in seen) == sorted(kernels)
    strided = {padding for shape, strides, padding in seen if strides == (2, 2) and shape[0] == 3}
    behind = (0, 1) if name == "DeepMindBlock" else (1, 1)
    assert strided == {(behind, behind)}


def test_deepminds_padding_is_that_of_tensorflow(crops):
    x, _ = crops(2, 8)
    conv = layers.Conv(4, stride=2, padding=(0, 1))
    state = conv.init(jax.random.key(0), x)
    (kernel,) = jax.tree.leaves(state)
    layout = ("NHWC", "HWIO", "NHWC")
    same = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=layout)
    np.testing.assert_allclose(conv.apply(state, x), same, rtol=1e-5, atol=1e-5)
