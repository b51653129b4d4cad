"""One string names a data set: the digits, a set of TFDS, or a file of your own.

    load("digits")              8x8 handwritten digits, embedded: nothing to download
    load("tfds:cifar10")        any image classification set that TFDS prepared
    load("path/to/mine.npz")    your own arrays
    load("path/to/folder")      the same as .npy files, which may be larger than memory

All come back as the same `Dataset`, in the order of the original files wherever that is
known (`Dataset.original_order` says so).
"""

import difflib
import os

import numpy as np

from rfm.data import npy, npz, tfds
from rfm.data.dataset import Dataset, from_arrays
from rfm.errors import UserError

_DIGITS_TRAIN = 1297
"""Of 1797, so that 500 are left to test on."""


def load(source: str, *, data_dir: str | None = None, train_examples: int | None = None) -> Dataset:
    """Loads a data set.

    Args:
      source: "digits", "tfds:<name>" (see `rfm.data.tfds`), or the path of an .npz file
        (see `rfm.data.npz`) or of a folder of .npy files (`rfm.data.npy`).
      data_dir: where TFDS keeps its data; by default ``$TFDS_DATA_DIR``, else
        ``~/tensorflow_datasets``. The other sources have no use for it.
      train_examples: keep only the first that many training examples.

    Raises:
      UserError: there is no such source, it is missing or damaged, or it has fewer
        training examples.
    """
    if source.startswith("tfds:"):
        return tfds.read(source.removeprefix("tfds:"), data_dir, train_examples)
    if source == "digits":
        dataset = digits()
    elif npy.is_folder(source):
        dataset = npy.read(source)
    elif source.endswith(".npz") or os.sep in source or os.path.isfile(source):
        dataset = npz.read(source)
    else:
        close = _suggestion(source)
        raise UserError(
            f"unknown data set {source!r}"
            + (f"; did you mean {close!r}?" if close else "")
            + " (it can be 'digits', 'tfds:<name>' or the path of an .npz file)"
        )
    return dataset if train_examples is None else dataset.first(train_examples)


def digits() -> Dataset:
    """The handwritten digits that scikit-learn ships: 1797 images of 8x8x1.

    The first 1297 train and the last 500 test, in the order of the file, without
    shuffling or balancing classes. That is the honest division: these images (the test
    set of UCI's "Optical Recognition of Handwritten Digits") were written by 13 people
    one after the other, so the last 500 are mostly by people whom training never saw.
    Shuffled first, every writer is on both sides, and the error of a nearest
    neighbour falls from 4.0% to 1.3%.

    The 17 grey levels of the file, 0 to 16, become 0 to 255.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target
    return from_arrays(
        "digits",
        images[:_DIGITS_TRAIN],
        labels[:_DIGITS_TRAIN],
        images[_DIGITS_TRAIN:],
        labels[_DIGITS_TRAIN:],
    )


def _suggestion(source: str) -> str:
    if difflib.get_close_matches(source.lower(), ["digits"]):
        return "digits"
    name = tfds.suggestion(source.lower().split(":")[-1])
    return f"tfds:{name}" if name else ""
