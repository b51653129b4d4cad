"""Augmentation on the device, inside the compiled step.

An augmentation is a frozen dataclass that is called with one uint8 image and its key
and returns a uint8 image; `augment` maps it over a batch. Keys are per example, so
the result does not depend on the layout of the batch over devices.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

Augmentation = Callable[[UInt8[Array, "h w c"], Key[Array, ""]], UInt8[Array, "h w c"]]


@dataclasses.dataclass(frozen=True)
class FlipAndCrop:
    """The standard augmentation of Section F: random flips and crops.

    Attributes:
      flip: mirror left to right with probability 1/2.
      crop: pad by this many zero pixels on each side and cut the original size out at a
        random place (4 on CIFAR-10).
    """

    flip: bool = True
    crop: int = 4

    def __call__(self, image: UInt8[Array, "h w c"], key: Key[Array, ""]) -> UInt8[Array, "h w c"]:
        flip_key, crop_key = jax.random.split(key)
        if self.flip:
            mirror = jax.random.bernoulli(flip_key)
            image = jnp.where(mirror, image[:, ::-1], image)
        if self.crop:
            padded = jnp.pad(image, ((self.crop, self.crop), (self.crop, self.crop), (0, 0)))
            row, column = jax.random.randint(crop_key, (2,), 0, 2 * self.crop + 1)
            image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
        return image


def augment(
    augmentation: Augmentation | None, images: UInt8[Array, "n h w c"], keys: Key[Array, " n"]
) -> Float[Array, "n h w c"]:
    """Augmented inputs in [0, 1], float32, from uint8 images."""
    if augmentation is not None:
        images = jax.vmap(augmentation)(images, keys)
    return to_float(images)


def to_float(images: UInt8[Array | np.ndarray, "n h w c"]) -> Float[Array, "n h w c"]:
    """uint8 pixels as float32 in [0, 1]; divides, so that 255 is exactly 1."""
    return jnp.asarray(images, jnp.float32) / 255.0
