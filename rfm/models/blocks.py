"""The residual blocks of the architectures.

All take ``(x, train)`` and have the same settings, so that `rfm.models.resnet.ResNet` is
made of any of them. `Block` and `Bottleneck` activate last (He et al., 2016a), the others
first (He et al., 2016b), and these differ in small things that published weights depend on:

| block            | the skip's convolution sees | 3x3 at stride 2 pads |
|------------------|-----------------------------|----------------------|
| `PreActBlock`    | the input of the block      | 1 on both sides      |
| `WideBlock`      | the activated input         | 1 on both sides      |
| `DeepMindBlock`  | the activated input         | 1 behind alone       |
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from rfm.models.layers import ACTIVATIONS, Conv, Dropout, RebasedBatchNorm


class ResidualBlock(nn.Module):
    """What all blocks have in common.

    Attributes:
      features: channels inside, and `expansion` times as many behind.
      stride: of the first 3x3 convolution; 2 halves the resolution.
      activation: a name in `rfm.models.layers.ACTIVATIONS`.
      axis_name: mapped axis over which batch statistics are averaged, if any.
      dtype: of the computation.
      dropout: share of values set to 0 in training, before the last convolution.
    """

    features: int
    stride: int
    activation: str
    axis_name: str | None
    dtype: Any
    dropout: float = 0.0

    expansion: ClassVar[int] = 1

    def activated(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return ACTIVATIONS[self.activation](x)

    def conv(self, name: str, features: int, **settings: Any) -> Callable[[Array], Array]:
        return Conv(features, dtype=self.dtype, name=name, **settings)

    def norm(self, name: str, train: bool) -> Callable[[Array], Array]:
        return functools.partial(
            RebasedBatchNorm(self.axis_name, dtype=self.dtype, name=name), train=train
        )

    def dropped(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h w c"]:
        return Dropout(self.dropout, self.axis_name, name="dropout")(x, train=train)

    def changes_shape(self, x: Float[Array, "n h w c"]) -> bool:
        """Does the skip need a convolution?"""
        return self.stride != 1 or x.shape[-1] != self.features * self.expansion


class Block(ResidualBlock):
    """Two 3x3 convolutions and a skip connection, a 1x1 convolution if shapes change."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w i"], train: bool) -> Float[Array, "n p q o"]:
        y = self.conv("conv1", self.features, stride=self.stride)(x)
        y = self.activated(self.norm("norm1", train)(y))
        y = self.dropped(y, train)
        y = self.norm("norm2", train)(self.conv("conv2", self.features)(y))
        return self.activated(self.skip(x, train) + y)

    def skip(self, x: Float[Array, "n h w i"], train: bool) -> Float[Array, "n p q o"]:
        if not self.changes_shape(x):
            return x
        features = self.features * self.expansion
        x = self.conv("conv_skip", features, kernel_size=1, stride=self.stride)(x)
        return self.norm("norm_skip", train)(x)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, the last to four times the channels; the 3x3 one strides."""

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: Float[Array, "n h w i"], train: bool) -> Float[Array, "n p q o"]:
        y = self.conv("conv1", self.features, kernel_size=1)(x)
        y = self.activated(self.norm("norm1", train)(y))
        y = self.conv("conv2", self.features, stride=self.stride)(y)
        y = self.activated(self.norm("norm2", train)(y))
        y = self.dropped(y, train)
        y = self.conv("conv3", self.features * self.expansion, kernel_size=1)(y)
        return self.activated(self.skip(x, train) + self.norm("norm3", train)(y))


class PreActBlock(ResidualBlock):
    """Normalisation and activation in front of two 3x3 convolutions; the sum stays as it is.

    Where shapes change, the skip's convolution sees the block's input as it came: so in the
    networks of Wong et al. (2020), unlike He et al.
    """

    skips_activated: ClassVar[bool] = False
    strided_padding: ClassVar[tuple[int, int]] = (1, 1)

    @nn.compact
    def __call__(self, x: Float[Array, "n h w i"], train: bool) -> Float[Array, "n p q o"]:
        first = self.activated(self.norm("norm1", train)(x))
        padding = self.strided_padding if self.stride == 2 else (1, 1)
        y = self.conv("conv1", self.features, stride=self.stride, padding=padding)(first)
        y = self.activated(self.norm("norm2", train)(y))
        y = self.conv("conv2", self.features)(self.dropped(y, train))
        if self.changes_shape(x):
            x = first if self.skips_activated else x
            x = self.conv("conv_skip", self.features, kernel_size=1, stride=self.stride)(x)
        return x + y


class WideBlock(PreActBlock):
    """The block of wide residual networks (Zagoruyko and Komodakis, 2016)."""

    skips_activated: ClassVar[bool] = True


class DeepMindBlock(WideBlock):
    """`WideBlock` with the padding that TensorFlow calls SAME (Gowal et al., 2020).

    At stride 2 it is one row behind and none in front: other pixels than PyTorch's.
    """

    strided_padding: ClassVar[tuple[int, int]] = (0, 1)
