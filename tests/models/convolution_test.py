"""The hand-written convolution against JAX's own, values and all derivatives."""

import functools
import itertools
import random

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rfm.models.convolution import conv_general_dilated

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

LAYOUT = ("NHWC", "HWIO", "NHWC")
BOTH = (conv_general_dilated, lax.conv_general_dilated)
BATCHES, SIZES = (1, 7, 8, 16, 24), ((5, 6), (9, 8), (12, 17))
STRIDES, KERNELS = ((1, 1), (2, 2), (3, 3), (2, 1)), ((1, 1), (2, 2), (3, 3), (5, 5), (1, 3))
PADDINGS = ("SAME", "VALID", ((1, 1), (1, 1)), ((0, 2), (1, 0)), ((2, 2), (3, 1)))

# A part of all combinations, chosen once and for all, and some that must not be missing.
CASES = [
    *random.Random(0).sample(
        list(itertools.product(BATCHES, SIZES, STRIDES, KERNELS, PADDINGS)), 20
    ),
    (24, (12, 17), (1, 1), (3, 3), ((1, 1), (1, 1))),  # kernel gradients in chunks of eight
    (16, (12, 17), (1, 1), (5, 5), ((2, 2), (3, 1))),
    (16, (17, 17), (2, 2), (3, 3), ((0, 2), (1, 0))),
    (8, (9, 8), (2, 2), (1, 1), "VALID"),  # a strided slice
    (7, (9, 8), (2, 2), (1, 1), ((1, 1), (0, 2))),
]


def operands(n, size, kernel_size, channels=(3, 4), dtype=np.float64):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(n, *size, channels[0])).astype(dtype)
    kernel = rng.normal(size=(*kernel_size, *channels)).astype(dtype)
    return inputs, kernel


def bound(convolution, strides=(1, 1), padding=((1, 1), (1, 1))):
    return functools.partial(
        convolution, window_strides=strides, padding=padding, dimension_numbers=LAYOUT
    )


def same(ours, theirs, rtol=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), ours, theirs)


@pytest.mark.parametrize(("n", "size", "strides", "kernel_size", "padding"), CASES)
def test_values_and_gradients(n, size, strides, kernel_size, padding):
    inputs, kernel = operands(n, size, kernel_size)

    @functools.partial(jax.jit, static_argnums=0)
    def all_of(convolution, inputs, kernel, weights):
        outputs, transpose = jax.vjp(bound(convolution, strides, padding), inputs, kernel)
        return outputs, transpose(weights)

    shape = jax.eval_shape(bound(lax.conv_general_dilated, strides, padding), inputs, kernel).shape
    weights = np.random.default_rng(1).normal(size=shape)
    same(*(all_of(convolution, inputs, kernel, weights) for convolution in BOTH))


def cubed(convolution, inputs, kernel):
    return (bound(convolution)(inputs, kernel) ** 3).sum()


@pytest.mark.parametrize(("n", "size"), [(3, (5, 6)), (16, (9, 8))])
def test_second_derivatives_in_reverse_over_reverse(n, size):
    arguments = operands(n, size, (3, 3), channels=(2, 2))
    directions = jax.tree.map(lambda v: np.cos(np.arange(v.size)).reshape(v.shape), arguments)

    @functools.partial(jax.jit, static_argnums=0)
    def product(convolution, arguments, directions):
        def slope(arguments):
            gradients = jax.grad(lambda a: cubed(convolution, *a))(arguments)
            return sum(jnp.vdot(g, d) for g, d in zip(gradients, directions, strict=True))

        return jax.grad(slope)(arguments)

    same(*(product(convolution, arguments, directions) for convolution in BOTH))


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_under_vmap(axes):
    inputs, kernel = operands(8, (9, 8), (3, 3), channels=(2, 2))
    many = [
        value if axis is None else np.stack([value, 2 * value, value**2])
        for value, axis in zip((inputs, kernel), axes, strict=True)
    ]

    @functools.partial(jax.jit, static_argnums=0)
    def all_of(convolution, inputs, kernel):
        function = jax.value_and_grad(functools.partial(cubed, convolution), argnums=(0, 1))
        return jax.vmap(function, axes)(inputs, kernel)

    same(*(all_of(convolution, *many) for convolution in BOTH))


def test_inside_a_compiled_loop():
    inputs, kernel = operands(16, (9, 8), (3, 3), channels=(2, 2))

    @functools.partial(jax.jit, static_argnums=0)
    def descend(convolution, inputs, kernel):
        def step(_, point):
            gradients = jax.grad(functools.partial(cubed, convolution), (0, 1))(*point)
            return jax.tree.map(lambda v, g: v - 1e-5 * g, point, gradients)

        return lax.fori_loop(0, 3, step, (inputs, kernel))

    same(*(descend(convolution, inputs, kernel) for convolution in BOTH))


@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3)])
def test_half_precision(kernel_size):
    inputs, kernel = operands(16, (9, 8), kernel_size, dtype=jnp.bfloat16)

    def loss(convolution, inputs, kernel):
        outputs = bound(convolution, (2, 2))(inputs, kernel)
        return (outputs.astype(jnp.float32) ** 2).sum(), outputs

    (_, outputs), gradients = jax.value_and_grad(
        functools.partial(loss, conv_general_dilated), (0, 1), has_aux=True
    )(inputs, kernel)
    assert outputs.dtype == gradients[0].dtype == gradients[1].dtype == jnp.bfloat16
    exact = jax.tree.map(np.float64, (inputs, kernel))
    (_, expected), of_exact = jax.value_and_grad(
        functools.partial(loss, lax.conv_general_dilated), (0, 1), has_aux=True
    )(*exact)
    for found, wanted in zip((outputs, *gradients), (expected, *of_exact), strict=True):
        error = np.linalg.norm(np.float64(found) - wanted) / np.linalg.norm(wanted)
        assert error < 0.01


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((2, 9, 8, 4), {"kernel_size": (3, 3), "feature_group_count": 2}),
        ((2, 9, 8, 4), {"kernel_size": (3, 3), "kernel_dilation": 2}),
        ((2, 9, 8, 4), {"kernel_size": (3, 3), "input_dilation": (2, 1), "padding": 1}),
        ((2, 9, 8, 4), {"kernel_size": (3, 3), "padding": "CIRCULAR"}),
        ((2, 9, 8, 4), {"kernel_size": (3, 3), "strides": 2}),
        ((2, 9, 4), {"kernel_size": (3,)}),
        ((2, 5, 4, 3, 4), {"kernel_size": (3, 3, 3)}),
    ],
)
def test_takes_the_place_of_the_convolution_in_flax(shape, settings):
    """Dilated, grouped and one- or three-dimensional ones are passed on to JAX."""
    x = np.random.default_rng(0).normal(size=shape)
    ours = nn.Conv(6, **settings, conv_general_dilated=conv_general_dilated)
    theirs = nn.Conv(6, **settings)
    variables = jax.jit(theirs.init)(jax.random.key(0), x)

    def all_of(module):
        return jax.value_and_grad(lambda v: (module.apply(v, x) ** 2).sum())(variables)

    same(all_of(ours), all_of(theirs))


def test_other_layouts_are_passed_on():
    inputs, kernel = operands(2, (9, 8), (3, 3))
    layout = ("NCHW", "HWIO", "NCHW")
    arguments = inputs.transpose(0, 3, 1, 2), kernel, (1, 1), "SAME"
    same(*(convolution(*arguments, dimension_numbers=layout) for convolution in BOTH))
    arguments = inputs.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (1, 1), "SAME"
    same(*(convolution(*arguments) for convolution in BOTH))  # JAX's default layout


def test_a_precision_asked_for_is_kept():
    """On GPU and TPU it decides about three or seven digits."""
    inputs, kernel = operands(2, (9, 8), (3, 3), dtype=np.float32)
    function = functools.partial(bound(conv_general_dilated), precision=lax.Precision.HIGHEST)
    assert "HIGHEST" in str(jax.make_jaxpr(function)(inputs, kernel))
    function = functools.partial(bound(conv_general_dilated), preferred_element_type=jnp.float64)
    assert function(inputs, kernel).dtype == jnp.float64
