"""Which examples a number is computed on: positions, counted in the original order.

Section F of the supplement evaluates on "the first 1000 test examples" and "the
first 1000 training examples", and stops early by robust error on "the last 500 test
examples". A number can only be compared with another one if both use the same
examples, so examples are chosen by position, never drawn, and carry their positions
along into the record of the result.

    >>> import rfm.data
    >>> digits = rfm.data.load("digits")
    >>> rfm.data.validation(digits, 100).indices[[0, -1]]
    array([400, 499])

The two choices do not know of each other: on a test set shorter than both counts
together they overlap, and a checkpoint chosen by the validation examples is then
judged on examples that chose it. Keep the counts apart in the config.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from rfm.data.dataset import Dataset, check_count
from rfm.errors import UserError

Split = Literal["train", "test"]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Some examples of one split, and where they stand in it.

    Attributes:
      images: pixels from 0 to 255.
      labels: from 0 to ``classes - 1``.
      split: "train" or "test".
      indices: positions in the original order of the split.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    split: Split
    indices: Int64[np.ndarray, " n"]


def evaluation(dataset: Dataset, split: Split, count: int) -> Examples:
    """The first `count` examples of a split.

    Section F: 1000 of each split for everything adversarial; for Err and Loss the
    whole test set and the first 10,000 training examples.

    Raises:
      UserError: there is no such split, or it has fewer examples.
    """
    images, labels = _split(dataset, split)
    check_count(count, len(labels), f"{dataset.name}: {split}")
    return Examples(images[:count], labels[:count], split, np.arange(count))


def validation(dataset: Dataset, count: int = 500) -> Examples:
    """The last `count` test examples, for early stopping (Section F: 500).

    Raises:
      UserError: the test set has fewer examples.
    """
    images, labels = _split(dataset, "test")
    total = len(labels)
    check_count(count, total, f"{dataset.name}: validation")
    indices = np.arange(total - count, total)
    return Examples(images[-count:], labels[-count:], "test", indices)


def _split(
    dataset: Dataset, split: Split
) -> tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " n"]]:
    match split:
        case "train":
            return dataset.train_images, dataset.train_labels
        case "test":
            return dataset.test_images, dataset.test_labels
        case _:
            raise UserError(f"unknown split {split!r}; it must be 'train' or 'test'")
