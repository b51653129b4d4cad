"""Residual networks for small images (He et al., 2016).

`resnet18` is the network of the study: a 3x3 stem, four stages of two basic blocks with
1, 2, 4 and 8 times `width` channels, strides 1, 2, 2, 2, global average pooling and a
linear layer, on 32x32 inputs; width 64 is the original. `resnet8` has three stages
of one block each and fits small inputs and small machines. All convolutions are
without bias and followed by batch normalisation.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rfm.models.layers import ACTIVATIONS, Conv, Dropout, RebasedBatchNorm, Whiten

ROTATION_HEAD = ("rotation_hidden", "rotation_head")
"""The layers that only networks with a rotation head have."""


class Block(nn.Module):
    """Two 3x3 convolutions and a skip connection, a 1x1 convolution if shapes change."""

    features: int
    stride: int
    activation: str
    axis_name: str | None
    dtype: Any
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "n h w i"], train: bool) -> Float[Array, "n p q o"]:
        activation = ACTIVATIONS[self.activation]
        conv = functools.partial(Conv, self.features, dtype=self.dtype)
        norm = functools.partial(RebasedBatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        y = conv(stride=self.stride, name="conv1")(x)
        y = activation(norm(name="norm1")(y, train=train))
        y = Dropout(self.dropout, self.axis_name, name="dropout")(y, train=train)
        y = norm(name="norm2")(conv(name="conv2")(y), train=train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(kernel_size=1, stride=self.stride, name="conv_skip")(x)
            x = norm(name="norm_skip")(x, train=train)
        return activation(x + y)


class ResNet(nn.Module):
    """A residual network on inputs in [0, 1].

    Attributes:
      classes: number of logits.
      stages: blocks per stage; each stage but the first halves the resolution.
      width: channels of the first stage; each further stage doubles them.
      activation: a name in `rfm.models.layers.ACTIVATIONS`.
      mean, std: per channel, for whitening.
      axis_name: mapped axis over which batch statistics are averaged, if any.
      dtype: of the computation; parameters and logits are float32.
      dropout: share of values set to 0 in training, between the convolutions of a block.
      rotation_head: return four more logits, of quarter turns, by a head with one hidden layer
        of 256 (self-supervision, Eq. (16)).
      remat: keep the inputs of blocks alone for a gradient, and compute what is inside of them
        again (Chen et al., 2016): more time, less memory, the same result. (On CPU, XLA computes
        it again so early that little memory is saved.)
    """

    classes: int
    stages: tuple[int, ...]
    width: int
    activation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    axis_name: str | None = None
    dtype: Any = jnp.float32
    dropout: float = 0.0
    rotation_head: bool = False
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n logits"]:
        x = Whiten(self.mean, self.std, name="whiten")(x).astype(self.dtype)
        x = Conv(self.width, dtype=self.dtype, name="stem")(x)
        x = RebasedBatchNorm(self.axis_name, dtype=self.dtype, name="stem_norm")(x, train=train)
        x = ACTIVATIONS[self.activation](x)
        # Argument 2 of a block, counted with self, is `train`.
        block_type = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                x = block_type(
                    self.width * 2**stage,
                    2 if stage > 0 and block == 0 else 1,
                    self.activation,
                    self.axis_name,
                    self.dtype,
                    self.dropout,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
        x = x.astype(jnp.promote_types(self.dtype, jnp.float32)).mean(axis=(1, 2))
        logits = nn.Dense(self.classes, name="head")(x)
        if not self.rotation_head:
            return logits
        hidden = ACTIVATIONS[self.activation](nn.Dense(256, name=ROTATION_HEAD[0])(x))
        return jnp.concatenate([logits, nn.Dense(4, name=ROTATION_HEAD[1])(hidden)], axis=-1)


resnet18 = functools.partial(ResNet, stages=(2, 2, 2, 2))
resnet8 = functools.partial(ResNet, stages=(1, 1, 1))
