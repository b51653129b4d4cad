"""Section F's positions: the first for evaluation, the last for early stopping."""

import numpy as np
import pytest

from rfm.data import digits, evaluation, validation
from rfm.errors import UserError


@pytest.fixture(scope="module")
def dataset():
    return digits()


@pytest.mark.parametrize("split", ["train", "test"])
def test_evaluation_is_the_beginning_of_its_split(dataset, split):
    examples = evaluation(dataset, split, 100)
    images = getattr(dataset, f"{split}_images")
    labels = getattr(dataset, f"{split}_labels")
    assert examples.split == split
    np.testing.assert_array_equal(examples.indices, np.arange(100))
    np.testing.assert_array_equal(examples.images, images[:100])
    np.testing.assert_array_equal(examples.labels, labels[:100])


def test_validation_is_the_end_of_the_test_set(dataset):
    examples = validation(dataset, 100)
    assert examples.split == "test"
    np.testing.assert_array_equal(examples.indices, np.arange(400, 500))
    np.testing.assert_array_equal(examples.images, dataset.test_images[-100:])
    np.testing.assert_array_equal(examples.labels, dataset.test_labels[-100:])


def test_indices_find_the_examples_again(dataset):
    for examples in (evaluation(dataset, "test", 7), validation(dataset, 7)):
        again = dataset.test_images[examples.indices]
        np.testing.assert_array_equal(examples.images, again)


def test_five_hundred_validate_by_default(dataset):
    assert len(validation(dataset).labels) == 500


def test_the_whole_split_may_be_asked_for(dataset):
    assert len(evaluation(dataset, "train", 1297).labels) == 1297


@pytest.mark.parametrize(
    ("choose", "says"),
    [
        (lambda d: evaluation(d, "test", 501), "digits: test .*501 .*from 1 to 500"),
        (lambda d: evaluation(d, "train", 1298), "digits: train .*from 1 to 1297"),
        (lambda d: evaluation(d, "test", 0), "digits: test .*0 asked for"),
        (lambda d: validation(d, 501), "digits: validation .*from 1 to 500"),
        (lambda d: validation(d, 0), "digits: validation .*0 asked for"),
        (lambda d: evaluation(d, "dev", 1), "unknown split 'dev'.*'train' or 'test'"),
    ],
)
def test_refuses_what_is_not_there(dataset, choose, says):
    with pytest.raises(UserError, match=says):
        choose(dataset)
