"""Residual networks for small images.

One network of blocks (`rfm.models.blocks`), and what the architectures by name set of it:

| name                | blocks            | of                                                |
|---------------------|-------------------|---------------------------------------------------|
| `resnet18`          | 2, 2, 2, 2        | the study; He et al. (2016a) for 32x32 inputs     |
| `resnet8`           | 1, 1, 1           | us, for small inputs and small machines           |
| `resnet50`          | 3, 4, 6, 3, wide  | Engstrom et al. (2019)                            |
| `preact_resnet18`   | 2, 2, 2, 2        | Wong et al. (2020)                                |
| `wrn28`, `wrn34`    | 3 times 4, 5      | Zagoruyko and Komodakis (2016), as in TRADES      |
| `dm_wrn28` to `70`  | 3 times 4, 5, 11  | Gowal et al. (2020), Rebuffi et al. (2021)        |

Stages have 1, 2, 4 and 8 times `width` channels and strides 1, 2, 2, 2: width 64 is the
original of the first four. A wide network of widening factor k has width 16 k (WRN-28-10
is `wrn28` with width 160); its stem always has 16 channels. All convolutions are without
bias. Inputs are whitened inside; models that were published without it have mean 0 and
standard deviation 1.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rfm.models.blocks import (
    Block,
    Bottleneck,
    DeepMindBlock,
    PreActBlock,
    ResidualBlock,
    WideBlock,
)
from rfm.models.layers import ACTIVATIONS, Conv, CosineDense, RebasedBatchNorm, Whiten

ROTATION_HEAD = ("rotation_hidden", "rotation_head")
"""The layers that only networks with a rotation head have."""


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
      cosine_scale: above 0: logits are cosines times this, see `rfm.models.layers.CosineDense`;
        0: a linear layer.
      block: what stages are made of.
      stem_width: channels of the stem; 0: `width`.
      stem_norm: normalise and activate behind the stem; blocks that activate first do it
        themselves.
      final_norm: normalise and activate behind the last block.
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
    cosine_scale: float = 0.0
    block: type[ResidualBlock] = Block
    stem_width: int = 0
    stem_norm: bool = True
    final_norm: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n logits"]:
        x = Whiten(self.mean, self.std, name="whiten")(x).astype(self.dtype)
        x = Conv(self.stem_width or self.width, dtype=self.dtype, name="stem")(x)
        if self.stem_norm:
            x = self.normalised("stem_norm", x, train)
        # Argument 2 of a block, counted with self, is `train`.
        block_type = nn.remat(self.block, static_argnums=(2,)) if self.remat else self.block
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
        if self.final_norm:
            x = self.normalised("final_norm", x, train)
        x = x.astype(jnp.promote_types(self.dtype, jnp.float32)).mean(axis=(1, 2))
        if self.cosine_scale:
            logits = CosineDense(self.classes, self.cosine_scale, name="head")(x)
        else:
            logits = nn.Dense(self.classes, name="head")(x)
        if not self.rotation_head:
            return logits
        hidden = ACTIVATIONS[self.activation](nn.Dense(256, name=ROTATION_HEAD[0])(x))
        return jnp.concatenate([logits, nn.Dense(4, name=ROTATION_HEAD[1])(hidden)], axis=-1)

    def normalised(self, name: str, x: Float[Array, "n h w c"], train: bool) -> Array:
        norm = RebasedBatchNorm(self.axis_name, dtype=self.dtype, name=name)
        return ACTIVATIONS[self.activation](norm(x, train=train))


_pre_activation = functools.partial(ResNet, stem_norm=False)
_wide = functools.partial(_pre_activation, block=WideBlock, stem_width=16, final_norm=True)
_deepmind = functools.partial(_wide, block=DeepMindBlock)

resnet8 = functools.partial(ResNet, stages=(1, 1, 1))
resnet18 = functools.partial(ResNet, stages=(2, 2, 2, 2))
resnet50 = functools.partial(ResNet, block=Bottleneck, stages=(3, 4, 6, 3))
# Without a normalisation at the end, as Wong et al. have it.
preact_resnet18 = functools.partial(_pre_activation, block=PreActBlock, stages=(2, 2, 2, 2))
# Depth d is (d - 4) / 6 blocks of two convolutions in each of three stages.
wrn28 = functools.partial(_wide, stages=(4, 4, 4))
wrn34 = functools.partial(_wide, stages=(5, 5, 5))
dm_wrn28 = functools.partial(_deepmind, stages=(4, 4, 4))
dm_wrn34 = functools.partial(_deepmind, stages=(5, 5, 5))
dm_wrn70 = functools.partial(_deepmind, stages=(11, 11, 11))
