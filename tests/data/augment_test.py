"""Flips and crops on the device, against NumPy on real images."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rfm.data.augment import FlipAndCrop, augment, to_float


@pytest.fixture
def images(cifar10) -> np.ndarray:
    return cifar10["x_train"][:16]


def placements(image: np.ndarray, found: np.ndarray, crop: int = 4) -> list[tuple[bool, int, int]]:
    """All (flipped, row, column) that turn `image` into `found`."""
    height, width = image.shape[:2]

    def at(flipped: bool, row: int, column: int) -> np.ndarray:
        source = image[:, ::-1] if flipped else image
        padded = np.pad(source, ((crop, crop), (crop, crop), (0, 0)))
        return padded[row : row + height, column : column + width]

    offsets = range(2 * crop + 1)
    everywhere = itertools.product((False, True), offsets, offsets)
    return [place for place in everywhere if (at(*place) == found).all()]


def keys(n: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), n)


def test_results_are_flips_and_crops_of_the_image(images):
    found = np.asarray(jax.vmap(FlipAndCrop())(images, keys(16)))
    assert found.shape == images.shape
    assert found.dtype == np.uint8
    where = [placements(image, result) for image, result in zip(images, found, strict=True)]
    assert all(len(hits) == 1 for hits in where)
    assert len({hits[0] for hits in where}) > 10


def test_flips_and_places_are_uniform(cifar10):
    """Half are flipped; each of the 81 places occurs equally often, flipped or not."""
    image = cifar10["x_train"][0][:6, :6]  # small, so that looking for places is quick
    crowd = np.repeat(image[None], 4050, axis=0)
    found = np.asarray(jax.vmap(FlipAndCrop())(crowd, keys(4050)))
    seen, counts = np.unique(found, axis=0, return_counts=True)
    where = [placements(image, result) for result in seen]
    assert all(len(hits) == 1 for hits in where)
    assert len(seen) == 2 * 81
    assert scipy.stats.chisquare(counts).pvalue > 0.01
    flips = sum(n for hits, n in zip(where, counts, strict=True) if hits[0][0])
    assert scipy.stats.binomtest(int(flips), 4050).pvalue > 0.01


def test_each_part_can_be_switched_off(images):
    only_flips = np.asarray(jax.vmap(FlipAndCrop(crop=0))(images, keys(16)))
    flipped = [
        (result == image[:, ::-1]).all() for image, result in zip(images, only_flips, strict=True)
    ]
    kept = [(result == image).all() for image, result in zip(images, only_flips, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert any(flipped)
    assert any(kept)
    only_crops = np.asarray(jax.vmap(FlipAndCrop(flip=False))(images, keys(16)))
    where = [placements(image, result) for image, result in zip(images, only_crops, strict=True)]
    assert all(not hits[0][0] for hits in where)
    off = jax.vmap(FlipAndCrop(flip=False, crop=0))(images, keys(16))
    np.testing.assert_array_equal(off, images)


def test_the_width_of_the_border_is_a_setting(images):
    found = np.asarray(jax.vmap(FlipAndCrop(crop=2))(images, keys(16)))
    for image, result in zip(images, found, strict=True):
        assert len(placements(image, result, crop=2)) == 1


def test_the_result_depends_only_on_the_image_and_its_key(images):
    """Not on the batch it is in, nor on the place in it."""
    of_all, order = keys(16), np.random.default_rng(0).permutation(16)
    whole = augment(FlipAndCrop(), images, of_all)
    part = augment(FlipAndCrop(), images[order][:5], of_all[order][:5])
    np.testing.assert_array_equal(part, whole[order][:5])
    other = augment(FlipAndCrop(), images, keys(16, seed=1))
    assert (np.asarray(other) != np.asarray(whole)).any((1, 2, 3)).sum() > 10


def test_augment_gives_inputs_between_zero_and_one(images):
    found = augment(FlipAndCrop(), images, keys(16))
    assert found.dtype == jnp.float32
    expected = to_float(jax.vmap(FlipAndCrop())(images, keys(16)))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(augment(None, images, keys(16)), to_float(images))


@pytest.mark.parametrize("function", [to_float, jax.jit(to_float)])
def test_pixels_become_float_exactly(function):
    """Divided, not multiplied by a rounded reciprocal: 255 is 1, and NumPy agrees."""
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    found = np.asarray(function(pixels))
    assert found.dtype == np.float32
    assert found.ravel()[255] == 1.0
    np.testing.assert_allclose(found, pixels / 255.0, rtol=1e-7)
