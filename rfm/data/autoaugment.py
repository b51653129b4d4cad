"""AutoAugment's policy for CIFAR-10 (Cubuk et al., 2019, appendix), and Cutout.

A policy is 25 pairs of operations, each with a probability and a magnitude from 0 to 9. For
every image one pair is drawn, and each of its operations is done with its probability. All of it
runs on the device as part of the compiled step: mapped over a batch, every operation is
computed for every image and one result is taken (the operations are `rfm.data.pillow`'s).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from rfm.data import pillow
from rfm.data.pillow import Image

_TRANSLATE = 150 / 331  # of the image's size: found on larger images

# By name: what is done at a level (a number between the two ends, by magnitude), and the ends.
# Levels of operations that are signed are multiplied by 1 or -1 at random.
OPERATIONS: dict[str, tuple[Callable[[Image, Array], Image], tuple[float, float], bool]] = {
    "invert": (lambda image, _: pillow.invert(image), (0, 0), False),
    "autocontrast": (lambda image, _: pillow.autocontrast(image), (0, 0), False),
    "equalize": (lambda image, _: pillow.equalize(image), (0, 0), False),
    "posterize": (pillow.posterize, (8, 4), False),
    "solarize": (pillow.solarize, (256, 0), False),
    "rotate": (pillow.rotate, (0, 30), False),
    "shear_y": (pillow.shear_y, (0, 0.3), True),
    "translate_x": (
        lambda image, share: pillow.translate(image, 0.0, share * image.shape[1]),
        (0, _TRANSLATE),
        True,
    ),
    "translate_y": (
        lambda image, share: pillow.translate(image, share * image.shape[0], 0.0),
        (0, _TRANSLATE),
        True,
    ),
    "brightness": (lambda image, by: pillow.brightness(image, 1 + by), (0, 0.9), True),
    "color": (lambda image, by: pillow.color(image, 1 + by), (0, 0.9), True),
    "contrast": (lambda image, by: pillow.contrast(image, 1 + by), (0, 0.9), True),
    "sharpness": (lambda image, by: pillow.sharpness(image, 1 + by), (0, 0.9), True),
}

POLICY = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)


def level(name: str, magnitude: int) -> float:
    """The level of an operation at a magnitude from 0 to 9."""
    low, high = OPERATIONS[name][1]
    return low + (high - low) * magnitude / 9


def apply(which: Array, image: Image, at: Float[Array, ""], sign: Float[Array, ""]) -> Image:
    """Operation number `which` (in the order of `OPERATIONS`) at a level."""
    branches = [
        lambda image, at, do=do, signed=signed: do(image, at * sign if signed else at)
        for do, _, signed in OPERATIONS.values()
    ]
    return jax.lax.switch(which, branches, image, at)


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """The policy, as an augmentation of one image."""

    def __call__(self, image: Image, key: Key[Array, ""]) -> Image:
        names = list(OPERATIONS)
        kinds = np.array([[names.index(name) for name, _, _ in pair] for pair in POLICY])
        shares = np.array([[share for _, share, _ in pair] for pair in POLICY], np.float32)
        levels = np.array([[level(name, m) for name, _, m in pair] for pair in POLICY], np.float32)
        pair_key, *keys = jax.random.split(key, 3)
        pair = jax.random.randint(pair_key, (), 0, len(POLICY))
        for position, of_operation in enumerate(keys):
            chance_key, sign_key = jax.random.split(of_operation)
            sign = jax.random.rademacher(sign_key, (), jnp.float32)
            which, at = jnp.asarray(kinds)[pair, position], jnp.asarray(levels)[pair, position]
            done = apply(which, image, at, sign)
            share = jnp.asarray(shares)[pair, position]
            image = jnp.where(jax.random.bernoulli(chance_key, share), done, image)
        return image


@dataclasses.dataclass(frozen=True)
class Cutout:
    """A black square around a random pixel, cut off at the borders (DeVries & Taylor, 2017).

    Attributes:
      size: of its sides, in pixels (16).
    """

    size: int = 16

    def __call__(self, image: Image, key: Key[Array, ""]) -> Image:
        height, width = image.shape[:2]
        row_key, column_key = jax.random.split(key)
        row = jax.random.randint(row_key, (), 0, height)
        column = jax.random.randint(column_key, (), 0, width)
        half = self.size // 2

        def hit(centre: Array, length: int) -> Array:
            distance = jnp.arange(length) - centre
            return (distance >= -half) & (distance < self.size - half)

        covered = hit(row, height)[:, None] & hit(column, width)[None]
        return jnp.where(covered[..., None], jnp.uint8(0), image)


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One augmentation after the other."""

    steps: tuple[Callable[[Image, Key[Array, ""]], Image], ...]

    def __call__(self, image: Image, key: Key[Array, ""]) -> Image:
        for step, of_step in zip(self.steps, jax.random.split(key, len(self.steps)), strict=True):
            image = step(image, of_step)
        return image
