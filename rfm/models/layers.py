"""Layers that the architectures share."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rfm.models.convolution import conv_general_dilated

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
"""Activations by name; SiLU, MiSH and GeLU are Eqs. (9) to (11) of the supplement (its
GeLU is the sigmoid approximation)."""


_EPSILON = 1e-5  # added to the variance, as PyTorch does
_MOVES = 0.1  # of the running statistics, per update


class Whiten(nn.Module):
    """``(x - mean) / std`` per channel: turns [0, 1] into what the network likes."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return (x - jnp.asarray(self.mean, x.dtype)) / jnp.asarray(self.std, x.dtype)


class Conv(nn.Module):
    """A convolution without bias, He-initialised by fan-out.

    `padding` is what is put in front and behind, along both axes; by default half the
    kernel's size, as in PyTorch.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dtype: Any = jnp.float32
    padding: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n p q o"]:
        padding = self.padding or (self.kernel_size // 2, self.kernel_size // 2)
        return nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            strides=self.stride,
            padding=(padding, padding),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            conv_general_dilated=conv_general_dilated,
            name="conv",
        )(x)


class CosineDense(nn.Module):
    """``scale * cos(x, w)`` for the weights w of each class: hypersphere embedding.

    Features and weights are divided by their norms, and there is no bias (Pang et al., 2020).
    Their training multiplies the cosines by 15 in the loss alone (and subtracts a margin); the
    logits of their published model, with which RobustBench and the study evaluate, are the
    cosines themselves: scale 1.
    """

    features: int
    scale: float

    @nn.compact
    def __call__(self, x: Float[Array, "n i"]) -> Float[Array, "n o"]:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        return self.scale * (_unit(x, axis=1) @ _unit(kernel, axis=0))


def _unit(x: Array, axis: int) -> Array:
    """``x / max(||x||, 1e-12)`` as PyTorch's ``normalize``, with gradient 0 of the norm of 0."""
    squared = jnp.square(x).sum(axis, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squared, 1e-24))


class Dropout(nn.Module):
    """Sets a share of the values to 0 and scales the others up, in training (Srivastava, 2014).

    Every example has draws of its own, by its position in the batch; where the batch is
    spread over the mapped axis `axis_name`, in the whole batch.
    """

    share: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."], *, train: bool) -> Float[Array, "n ..."]:
        if not train or not self.share:
            return x
        n, kept = x.shape[0], 1 - self.share
        first = 0 if self.axis_name is None else n * jax.lax.axis_index(self.axis_name)
        positions = first + jnp.arange(n)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), positions)
        stays = jax.vmap(lambda key: jax.random.bernoulli(key, kept, x.shape[1:]))(keys)
        return jnp.where(stays, x / kept, 0).astype(x.dtype)


class RebasedBatchNorm(nn.Module):
    """Batch normalisation whose scale is stored as an offset from one.

    ``y = (x - mean) / sqrt(var + 1e-5) * (1 + scale) + bias``, with `scale` starting at
    0. Weight decay and weight clipping then pull the scale to one instead of zero, where
    it would silence the network (the released code's "rebn"). The
    running statistics move by a tenth per update. Where the batch is spread over a mapped
    axis, `axis_name` makes the statistics those of the whole batch.
    """

    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n h w c"]:
        shape, wide = x.shape[-1:], x.astype(jnp.promote_types(x.dtype, jnp.float32))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", nn.initializers.zeros, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if train:
            mean, var = self._statistics(wide)
            if not self.is_initializing():
                running_mean.value += _MOVES * (mean - running_mean.value)
                running_var.value += _MOVES * (var - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        # One multiplication and one addition per value: training gradients of ResNet-18 take
        # 0.85 of the time they take with flax.linen.BatchNorm, which centres first (CPU).
        factor = (1.0 + scale) * jax.lax.rsqrt(var + _EPSILON)
        return (wide * factor + (bias - mean * factor)).astype(self.dtype)

    def _statistics(self, x: Float[Array, "n h w c"]) -> tuple[Array, Array]:
        mean, square = x.mean((0, 1, 2)), jnp.square(x).mean((0, 1, 2))
        if self.axis_name is not None and not self.is_initializing():
            mean, square = jax.lax.pmean((mean, square), self.axis_name)
        return mean, jnp.maximum(square - jnp.square(mean), 0.0)
