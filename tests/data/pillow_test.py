"""Each operation against Pillow itself, on real images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from rfm.data import pillow


@pytest.fixture(scope="module")
def images(cifar10) -> np.ndarray:
    """Forty real images; one of them flat, and one with two levels."""
    chosen = cifar10["x_train"][:40].copy()
    chosen[0] = 77
    chosen[1] = np.where(chosen[1] > 100, 200, 30)
    return chosen


def compare(images, ours, theirs, *, differ=0.0):
    """At most one level apart, and at most a share of the values at all."""
    found = np.asarray(jax.jit(jax.vmap(ours))(jnp.asarray(images)), int)
    expected = np.array([np.asarray(theirs(Image.fromarray(image))) for image in images], int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= (1 if differ else 0)
    assert (found != expected).mean() <= differ


def test_pixelwise_operations_are_exact(images):
    compare(images, pillow.invert, ImageOps.invert)
    for bits in (4, 5, 6, 7, 8):
        compare(images, lambda x, b=bits: pillow.posterize(x, jnp.float32(b)),
                lambda x, b=bits: ImageOps.posterize(x, b))  # fmt: skip
    for threshold in (0, 28.4, 128, 256):
        compare(images, lambda x, t=threshold: pillow.solarize(x, jnp.float32(t)),
                lambda x, t=threshold: ImageOps.solarize(x, t))  # fmt: skip


def test_histograms(images):
    compare(images, pillow.equalize, ImageOps.equalize)
    # Pillow computes in floats and truncates: where a value is whole, it may lose one level.
    compare(images, pillow.autocontrast, ImageOps.autocontrast, differ=0.05)


@pytest.mark.parametrize("factor", [0.1, 0.7, 1.0, 1.3, 1.9])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (pillow.brightness, ImageEnhance.Brightness),
        (pillow.color, ImageEnhance.Color),
        (pillow.contrast, ImageEnhance.Contrast),
        (pillow.sharpness, ImageEnhance.Sharpness),
    ],
)
def test_enhancements(images, ours, theirs, factor):
    compare(images, lambda x: ours(x, jnp.float32(factor)),
            lambda x: theirs(x).enhance(factor), differ=0.002)  # fmt: skip


@pytest.mark.parametrize("degrees", [0.0, 6.6667, 30.0])
def test_rotations(images, degrees):
    def theirs(image):
        turned = image.convert("RGBA").rotate(degrees)
        return Image.composite(turned, Image.new("RGBA", turned.size, (128,) * 4), turned).convert(
            "RGB"
        )

    found = np.asarray(jax.vmap(lambda x: pillow.rotate(x, jnp.float32(degrees)))(images))
    expected = np.array([np.asarray(theirs(Image.fromarray(image))) for image in images])
    # A neighbour may be another where a coordinate is whole up to rounding.
    assert (found != expected).any(-1).mean() < 0.01


@pytest.mark.parametrize("pixels", [-14.5, -4.83, 0.0, 3.0, 12.89])
def test_translations(images, pixels):
    for ours, matrix in (
        (lambda x: pillow.translate(x, 0.0, pixels), (1, 0, pixels, 0, 1, 0)),
        (lambda x: pillow.translate(x, pixels, 0.0), (1, 0, 0, 0, 1, pixels)),
    ):
        compare(images, ours, lambda x, m=matrix: x.transform(
            x.size, Image.Transform.AFFINE, m, fillcolor=(128,) * 3))  # fmt: skip


@pytest.mark.parametrize("slope", [-0.3, -0.2333, 0.0, 0.2667])
def test_shears(images, slope):
    compare(images, lambda x: pillow.shear_y(x, jnp.float32(slope)), lambda x: x.transform(
        x.size, Image.Transform.AFFINE, (1, 0, 0, slope, 1, 0), Image.Resampling.BICUBIC,
        fillcolor=(128,) * 3), differ=0.01)  # fmt: skip


def test_grey_images_have_one_channel(images):
    grey = images[..., :1]
    for operation in (pillow.color, pillow.contrast, pillow.brightness, pillow.sharpness):
        found = jax.vmap(lambda x, do=operation: do(x, jnp.float32(1.4)))(grey)
        assert found.shape == grey.shape
        assert found.dtype == jnp.uint8
    np.testing.assert_array_equal(jax.vmap(lambda x: pillow.color(x, jnp.float32(0.2)))(grey), grey)
