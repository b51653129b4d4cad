"""One string names a data set; a wrong one gets one line."""

import pathlib

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from rfm.data import load
from rfm.errors import UserError

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "cifar10_small.npz"


def test_digits_are_scikit_learns_in_their_order():
    dataset = load("digits")
    original = load_digits()
    images = np.concatenate([dataset.train_images, dataset.test_images])
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    np.testing.assert_array_equal(labels, original.target)
    # 17 grey levels spread over 0 to 255, none merged and the ends kept.
    levels = np.rint(images[..., 0] * (16 / 255))
    np.testing.assert_array_equal(levels, original.images)
    assert images.min() == 0 and images.max() == 255
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.classes == 10
    assert len(dataset.test_labels) == 500


def test_digits_are_tested_on_other_writers():
    # The numbers in the docstring of `digits`: shuffling hides two thirds of the error.
    def error(x_train, y_train, x_test, y_test):
        classifier = KNeighborsClassifier(1).fit(x_train.reshape(len(x_train), -1), y_train)
        return 1 - classifier.score(x_test.reshape(len(x_test), -1), y_test)

    d = load("digits")
    ours = error(d.train_images, d.train_labels, d.test_images, d.test_labels)
    images = np.concatenate([d.train_images, d.test_images])
    labels = np.concatenate([d.train_labels, d.test_labels])
    shuffled = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(1797)
        train, test = order[:1297], order[1297:]
        shuffled.append(error(images[train], labels[train], images[test], labels[test]))
    assert ours == pytest.approx(0.040, abs=0.001)
    assert np.mean(shuffled) == pytest.approx(0.013, abs=0.001)


def test_an_npz_is_loaded_by_its_path():
    dataset = load(str(FIXTURE))
    assert dataset.name == str(FIXTURE)
    # The labels that everyone's CIFAR-10 begins with.
    assert dataset.train_labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert dataset.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]


@pytest.mark.parametrize("source", ["digits", str(FIXTURE)])
def test_train_examples_keeps_the_first(source):
    whole, part = load(source), load(source, train_examples=50)
    np.testing.assert_array_equal(part.train_images, whole.train_images[:50])
    np.testing.assert_array_equal(part.train_labels, whole.train_labels[:50])
    np.testing.assert_array_equal(part.test_images, whole.test_images)
    assert part.class_names == whole.class_names


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("digit", "unknown data set 'digit'; did you mean 'digits'"),
        ("cifar10", "unknown data set 'cifar10'; did you mean 'tfds:cifar10'"),
        ("CIFAR10", "did you mean 'tfds:cifar10'"),
        ("TFDS:mnist", "did you mean 'tfds:mnist'"),
        ("", "unknown data set ''.*'digits', 'tfds:<name>' or .* .npz"),
        ("qqqqqqqqqq", "unknown data set 'qqqqqqqqqq' .*'digits'"),
        ("nowhere.npz", "nowhere.npz: there is no such file"),
        ("no/where", "no/where: there is no such file"),
        ("/", "/: there is no such file"),
        ("tfds:", "cannot open tfds:"),
        ("tfds:../cifar10", "cannot open tfds:../cifar10"),
        ("tfds:cifar-10", "cannot open tfds:cifar-10|did you mean 'cifar10"),
    ],
)
def test_a_wrong_source_gets_one_line(source, says):
    with pytest.raises(UserError, match=says) as caught:
        load(source)
    assert "\n" not in str(caught.value)


def test_too_many_train_examples_get_one_line():
    with pytest.raises(UserError, match="digits: training .*1298 .*from 1 to 1297"):
        load("digits", train_examples=1298)
