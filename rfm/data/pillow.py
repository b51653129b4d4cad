"""Operations on uint8 images as Pillow defines them, one image at a time, to be vmapped.

AutoAugment's policy was found with Pillow's operations, and their details (truncation, borders,
fixed points of the histogram) are part of it; those of dm-pix work on floats and differ. Each
agrees with Pillow up to one grey level where rounding decides.

Every function takes an image (h, w, c) of uint8, c being 1 or 3, and gives one back.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

Image = UInt8[Array, "h w c"]
FILL = 128  # what is outside of an image

_LUMA = (19595, 38470, 7471)  # of 2**16: the weights of red, green and blue


def invert(image: Image) -> Image:
    """255 minus every value."""
    return 255 - image


def posterize(image: Image, bits: Float[Array, ""]) -> Image:
    """Keeps the highest `bits` bits."""
    unit = jnp.exp2(8 - jnp.round(bits)).astype(jnp.int32)
    return (image.astype(jnp.int32) // unit * unit).astype(jnp.uint8)


def solarize(image: Image, threshold: Float[Array, ""]) -> Image:
    """Inverts what is at least `threshold`."""
    return jnp.where(image < threshold, image, 255 - image)


def brightness(image: Image, factor: Float[Array, ""]) -> Image:
    """From black (0) by the image itself (1) to brighter."""
    return _blend(jnp.zeros_like(image), image, factor)


def color(image: Image, factor: Float[Array, ""]) -> Image:
    """From grey (0) by the image itself (1) to more colourful."""
    return _blend(jnp.broadcast_to(_grey(image), image.shape), image, factor)


def contrast(image: Image, factor: Float[Array, ""]) -> Image:
    """From its mean grey (0) by the image itself (1) to more contrast."""
    mean = jnp.floor(_grey(image).astype(jnp.float32).mean() + 0.5)
    return _blend(jnp.broadcast_to(mean, image.shape), image, factor)


def sharpness(image: Image, factor: Float[Array, ""]) -> Image:
    """From smoothed (0) by the image itself (1) to sharper; borders stay."""
    values = image.astype(jnp.float32)
    padded = jnp.pad(values, ((1, 1), (1, 1), (0, 0)))
    height, width = image.shape[:2]
    around = sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    smooth = jnp.floor((around + 4 * values) / 13 + 0.5)
    inside = jnp.zeros(image.shape[:2], bool).at[1:-1, 1:-1].set(True)
    return _blend(jnp.where(inside[..., None], smooth, values), image, factor)


def autocontrast(image: Image) -> Image:
    """Stretches every channel to 0 to 255."""
    values = image.astype(jnp.int32)
    low, high = values.min((0, 1)), values.max((0, 1))
    stretched = (values - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, values).astype(jnp.uint8)


def equalize(image: Image) -> Image:
    """Makes the histogram of every channel as even as can be."""
    return jax.vmap(_equalize, in_axes=-1, out_axes=-1)(image)


def _equalize(channel: UInt8[Array, "h w"]) -> UInt8[Array, "h w"]:
    counts = jnp.bincount(channel.ravel(), length=256)
    last = counts[channel.max()]
    step = (channel.size - last) // 255
    before = jnp.cumsum(counts) - counts
    table = jnp.minimum((step // 2 + before) // jnp.maximum(step, 1), 255).astype(jnp.uint8)
    return jnp.where(step > 0, table[channel], channel)


def rotate(image: Image, degrees: Float[Array, ""]) -> Image:
    """Counter-clockwise around the centre, nearest neighbours."""
    height, width = image.shape[:2]
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    row, column = _centres(image)
    row, column = row - height / 2, column - width / 2
    return _nearest(
        image, height / 2 + sin * column + cos * row, width / 2 + cos * column - sin * row
    )


def translate(image: Image, down: Array | float, right: Array | float) -> Image:
    """What is at (row + down, column + right), in pixels; nearest neighbours."""
    row, column = _centres(image)
    return _nearest(image, row + down, column + right)


def shear_y(image: Image, slope: Float[Array, ""]) -> Image:
    """What is at (row + slope * column, column), interpolated by cubics."""
    row, column = _centres(image)
    return _bicubic(image, row + slope * column, column)


def _centres(image: Image) -> tuple[Float[Array, "h 1"], Float[Array, "1 w"]]:
    height, width = image.shape[:2]
    return jnp.arange(height)[:, None] + 0.5, jnp.arange(width)[None] + 0.5


def _inside(image: Image, row: Array, column: Array) -> Array:
    height, width = image.shape[:2]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return inside[..., None]


def _at(image: Image, row: Int[Array, "h w"], column: Int[Array, "h w"]) -> Image:
    """Pixels; outside, those of the border."""
    height, width = image.shape[:2]
    return image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]


def _nearest(image: Image, row: Array, column: Array) -> Image:
    row, column = jnp.broadcast_arrays(row, column)
    found = _at(image, jnp.floor(row).astype(int), jnp.floor(column).astype(int))
    return jnp.where(_inside(image, row, column), found, jnp.uint8(FILL))


def _bicubic(image: Image, row: Array, column: Array) -> Image:
    row, column = jnp.broadcast_arrays(row, column)
    inside = _inside(image, row, column)
    row, column = row - 0.5, column - 0.5
    top, left = jnp.floor(row).astype(int), jnp.floor(column).astype(int)
    down, right = (row - top)[..., None], (column - left)[..., None]
    rows = []
    for i in range(-1, 3):
        across = [_at(image, top + i, left + j).astype(jnp.float32) for j in range(-1, 3)]
        rows.append(_cubic(across, right))
    return jnp.where(inside, _truncate(_cubic(rows, down)), jnp.uint8(FILL))


def _cubic(values: list[Array], t: Array) -> Array:
    """Through four values, between the second (t = 0) and the third (t = 1)."""
    a, b, c, d = values
    return b + t * (c - a + t * (2 * (a - b) + c - d + t * (b - a - c + d)))


def _grey(image: Image) -> Image:
    """(h, w, 1), as Pillow converts to mode L."""
    if image.shape[-1] == 1:
        return image
    weights = jnp.asarray(_LUMA, jnp.int32)
    return (((image.astype(jnp.int32) * weights).sum(-1, keepdims=True) + 2**15) >> 16).astype(
        jnp.uint8
    )


def _blend(first: Array, second: Image, share: Array) -> Image:
    """``first + share * (second - first)``, cut to a byte."""
    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    return _truncate(first + share * (second - first))


def _truncate(values: Array) -> UInt8[Array, "..."]:
    return jnp.clip(values, 0, 255).astype(jnp.uint8)
