"""A convolution that is fast inside compiled loops on CPU, too.

XLA's CPU back end has fast kernels for convolutions whose operands are NHWC and HWIO.
The transposes that JAX derives for the backward pass are not of that form. Outside of
loops a compiler pass rewrites them; inside ``fori_loop`` and ``scan`` it does not, and
they fall to naive code that is ten to forty times slower. Here the backward pass is
written out by hand:

- input gradient: a convolution of the (dilated) output gradient with the flipped,
  transposed kernel, in canonical form;
- kernel gradient: a convolution in which batch and channels change places, in
  canonical form, over eight examples at a time: a chunk stays in the cache, which made
  it two to three times faster with both cores busy (outputs of 8 x 8 and more; below
  that there is nothing to win).

On other platforms JAX's own derivatives are used: there they are the fast form.

Forward mode does not pass through a ``custom_vjp``; take Hessian-vector products in
reverse over reverse.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_CANONICAL = ("NHWC", "HWIO", "NHWC")
_CHUNK = 8  # examples per chunk of a kernel gradient
_CHUNK_FROM = 8  # output height from which chunks pay off

Strides = tuple[int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]


def conv_general_dilated(
    inputs: Float[Array, "n h w i"],
    kernel: Float[Array, "a b i o"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "n p q o"]:
    """Drop-in for ``flax.linen.Conv(conv_general_dilated=...)``, NHWC and HWIO.

    Dilated, grouped or otherwise laid out convolutions, and those with a precision or an
    element type of their own, are passed on to JAX as they are.
    """
    dimension_numbers = lax.conv_dimension_numbers(
        inputs.shape, kernel.shape, options.pop("dimension_numbers", None)
    )
    plain = (
        inputs.ndim == 4
        and dimension_numbers == lax.conv_dimension_numbers(inputs.shape, kernel.shape, _CANONICAL)
        and all(
            d == 1 for name in ("lhs_dilation", "rhs_dilation") for d in options.get(name) or ()
        )
        and options.get("feature_group_count", 1) == options.get("batch_group_count", 1) == 1
        and options.get("precision") is options.get("preferred_element_type") is None
    )
    if not plain:
        return lax.conv_general_dilated(
            inputs, kernel, window_strides, padding, dimension_numbers=dimension_numbers, **options
        )
    strides = (window_strides[0], window_strides[1])
    if isinstance(padding, str):
        pads = lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
    else:
        pads = list(padding)
    if kernel.shape[:2] == (1, 1) and not any(map(any, pads)):
        # Four times faster on CPU than a strided 1x1 convolution.
        sliced = inputs[:, :: strides[0], :: strides[1]]
        return jnp.einsum("nhwi,io->nhwo", sliced, kernel[0, 0])
    return convolution(inputs, kernel, strides, (tuple(pads[0]), tuple(pads[1])))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(
    inputs: Float[Array, "n h w i"],
    kernel: Float[Array, "a b i o"],
    strides: Strides,
    padding: Padding,
) -> Float[Array, "n p q o"]:
    """Cross-correlation with explicit `padding`, as neural networks mean it."""
    return _native(inputs, kernel, strides, padding)


def _native(inputs: Array, kernel: Array, strides: Strides, padding: Padding) -> Array:
    return lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=_CANONICAL)


def _forward(
    inputs: Array, kernel: Array, strides: Strides, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
    return convolution(inputs, kernel, strides, padding), (inputs, kernel)


def _backward(
    strides: Strides, padding: Padding, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    inputs, kernel = residuals

    def native(inputs: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        _, transpose = jax.vjp(lambda x, w: _native(x, w, strides, padding), inputs, kernel)
        return transpose(gradient)

    def canonical(inputs: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return (
            _input_gradient(inputs.shape, kernel, gradient, strides, padding),
            _kernel_gradient(inputs, kernel.shape, gradient, strides, padding),
        )

    return lax.platform_dependent(inputs, kernel, gradient, cpu=canonical, default=native)


convolution.defvjp(_forward, _backward)


def _input_gradient(
    shape: tuple[int, ...], kernel: Array, gradient: Array, strides: Strides, padding: Padding
) -> Array:
    pads = []
    for axis in (0, 1):
        size, stride = kernel.shape[axis], strides[axis]
        before = size - 1 - padding[axis][0]
        dilated = (gradient.shape[1 + axis] - 1) * stride + 1
        pads.append((before, shape[1 + axis] + size - 1 - dilated - before))
    return lax.conv_general_dilated(
        gradient,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        pads,
        lhs_dilation=strides,
        dimension_numbers=_CANONICAL,
    )


def _kernel_gradient(
    inputs: Array, shape: tuple[int, ...], gradient: Array, strides: Strides, padding: Padding
) -> Array:
    pads = []
    for axis in (0, 1):
        before = padding[axis][0]
        reach = (gradient.shape[1 + axis] - 1) * strides[axis] + shape[axis]
        pads.append((before, reach - inputs.shape[1 + axis] - before))

    def of_chunk(inputs: Array, gradient: Array) -> Array:
        return lax.conv_general_dilated(
            inputs.transpose(3, 1, 2, 0),
            gradient.transpose(1, 2, 0, 3),
            (1, 1),
            pads,
            rhs_dilation=strides,
            dimension_numbers=_CANONICAL,
        ).transpose(1, 2, 0, 3)

    n = inputs.shape[0]
    if gradient.shape[1] < _CHUNK_FROM or n % _CHUNK or n == _CHUNK:
        return of_chunk(inputs, gradient)
    # Chunk i takes every (n / _CHUNK)-th example, so that a sharded batch stays sharded.
    inputs = inputs.reshape(_CHUNK, n // _CHUNK, *inputs.shape[1:])
    gradient = gradient.reshape(_CHUNK, n // _CHUNK, *gradient.shape[1:])
    return lax.fori_loop(
        1,
        n // _CHUNK,
        lambda i, total: total + of_chunk(inputs[:, i], gradient[:, i]),
        of_chunk(inputs[:, 0], gradient[:, 0]),
    )
