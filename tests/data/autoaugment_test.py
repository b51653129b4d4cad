"""The policy: what is drawn how often, and Cutout's squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfm.data import autoaugment
from rfm.data.augment import FlipAndCrop
from rfm.data.autoaugment import OPERATIONS, POLICY, AutoAugment, Cutout, Sequence


def test_the_policy_has_25_pairs_of_known_operations():
    assert len(POLICY) == 25
    for pair in POLICY:
        for name, share, magnitude in pair:
            assert name in OPERATIONS
            assert 0 <= share <= 1
            assert 0 <= magnitude <= 9


def test_levels_are_the_papers_ranges():
    assert autoaugment.level("rotate", 9) == 30
    assert autoaugment.level("posterize", 9) == 4
    assert autoaugment.level("posterize", 7) == pytest.approx(8 - 4 * 7 / 9)
    assert autoaugment.level("solarize", 0) == 256
    assert autoaugment.level("color", 0) == 0
    assert autoaugment.level("translate_y", 9) == pytest.approx(150 / 331)


@pytest.fixture(scope="module")
def augmented(cifar10):
    """One real image 4000 times."""
    image = jnp.asarray(cifar10["x_train"][3])
    keys = jax.random.split(jax.random.key(0), 4000)
    return image, np.asarray(jax.jit(jax.vmap(AutoAugment(), (None, 0)))(image, keys))


def test_images_stay_as_they_are_as_often_as_the_policy_says(augmented):
    """Neither operation is done with the product of both chances; of some the level is 0."""
    image, found = augmented
    same = (found == image).all((1, 2, 3)).mean()
    neither = np.mean([(1 - a[1]) * (1 - b[1]) for a, b in POLICY])
    assert neither - 0.02 < same < neither + 0.08, "some do nothing to this image"


def test_both_signs_occur(augmented):
    """Translations by 14.5 pixels leave grey at the top or at the bottom."""
    _, found = augmented
    top, bottom = (found[:, :14] == 128).all((1, 2, 3)), (found[:, -14:] == 128).all((1, 2, 3))
    assert 0.02 < top.mean() < 0.15
    assert 0.02 < bottom.mean() < 0.15
    assert not (top & bottom).any()


def test_every_operation_can_be_chosen_in_the_compiled_program(cifar10):
    image = jnp.asarray(cifar10["x_train"][5])
    apply = jax.jit(autoaugment.apply)
    for number, (name, (do, _, signed)) in enumerate(OPERATIONS.items()):
        at = jnp.float32(autoaugment.level(name, 7))
        found = apply(jnp.int32(number), image, at, jnp.float32(-1))
        expected = do(image, -at if signed else at)
        close = np.abs(np.asarray(found, int) - np.asarray(expected, int)) <= 1
        assert close.mean() > 0.99, name


def test_cutout_is_a_square_cut_off_at_the_borders():
    image = jnp.full((32, 32, 3), 9, jnp.uint8)
    keys = jax.random.split(jax.random.key(1), 500)
    found = np.asarray(jax.vmap(Cutout(16), (None, 0))(image, keys))
    black = (found == 0).all(-1)
    assert ((found == 9) | (found == 0)).all()
    heights, widths = black.any(2).sum(1), black.any(1).sum(1)
    assert (black.sum((1, 2)) == heights * widths).all(), "rectangles"
    assert heights.max() == widths.max() == 16
    assert heights.min() == 8, "around a border pixel half of it is inside"
    covered = black.mean(0)
    assert covered[16, 16] > 2 * covered[0, 0] > 0


def test_a_sequence_gives_each_step_a_key_of_its_own(cifar10):
    image = jnp.asarray(cifar10["x_train"][7])
    key = jax.random.key(2)
    first, second = jax.random.split(key)
    steps = (FlipAndCrop(), Cutout(8))
    expected = steps[1](steps[0](image, first), second)
    np.testing.assert_array_equal(Sequence(steps)(image, key), expected)
