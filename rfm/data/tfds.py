"""Data sets from TensorFlow Datasets (TFDS), read without TensorFlow.

TFDS prepares a data set once (`prepare`; that needs TensorFlow) and leaves
array_record files that `tensorflow_datasets` alone reads. Any set will do that has
``train`` and ``test`` splits, an ``image`` of a fixed shape in uint8, and a class
``label``. Sixty thousand images of CIFAR-10 take about eight seconds to decode, a
slice of the training set accordingly less; there is no cache to go stale.

**Order.** TFDS shuffles while it prepares, always in the same way. The paper's "first
1000 test examples" are positions in the original files, so the original order is
restored here from the ``id`` feature, where each example of CIFAR-10 keeps its number
("train_16399"). A set without numbers (MNIST, for one) stays in the order of TFDS's
files: its first 1000 examples are the same for everyone who uses TFDS, but not those
of the original files. That comes with a warning and ``original_order=False``.
"""

import contextlib
import difflib
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from rfm.archives import reason
from rfm.data.dataset import Dataset, check_count, from_arrays
from rfm.errors import UserError

_CHUNK = 1000
"""Examples fetched from an array_record file at a time."""


def read(name: str, data_dir: str | None = None, train_examples: int | None = None) -> Dataset:
    """Reads a prepared image classification data set.

    Args:
      name: as in TFDS: ``name``, ``name/config`` or ``name:version``.
      data_dir: where TFDS keeps its data; by default ``$TFDS_DATA_DIR``, else
        ``~/tensorflow_datasets``.
      train_examples: decode only the first that many training examples.

    Raises:
      UserError: the set is unknown, not prepared, prepared in another file format,
        damaged, or not image classification; or `train_examples` is out of range.
    """
    builder = _builder(name, data_dir)
    class_names = _class_names(name, builder)
    if not builder.data_path.exists():
        raise UserError(
            f"tfds:{name} is not in {builder.data_path}: run `rfm data prepare {name}` "
            "once, or give the data directory that has it"
        )
    sources = _sources(name, builder)
    if train_examples is not None:
        check_count(train_examples, len(sources["train"]), f"tfds:{name}: training")
    image = builder.info.features["image"]
    try:
        with _quiet():
            x_train, y_train, train_ordered = _read(sources["train"], image, train_examples)
            x_test, y_test, test_ordered = _read(sources["test"], image)
    except MemoryError as error:
        raise UserError(f"tfds:{name} does not fit into memory") from error
    except Exception as error:  # TFDS, array_record and Pillow each have their own
        raise UserError(
            f"tfds:{name}: cannot read the files in {builder.data_path} "
            f"({reason(error)}); if they are damaged, remove that directory and run "
            f"`rfm data prepare {name}` again"
        ) from error
    ordered = builder.info.disable_shuffling or (train_ordered and test_ordered)
    if not ordered:
        warnings.warn(
            f"tfds:{name} has no numbered `id` feature, so its examples stay in the "
            "order of TFDS's files, which is shuffled: the first examples are not the "
            "first of the original files",
            stacklevel=2,
        )
    return from_arrays(name, x_train, y_train, x_test, y_test, class_names, original_order=ordered)


def prepare(name: str, data_dir: str | None = None) -> str:
    """Downloads a data set and writes it as array_record files, unless that is done.

    Args:
      name: as for `read`.
      data_dir: as for `read`; downloads are kept in ``downloads`` below it, so that
        a second attempt starts from what the first one got.

    Returns:
      The directory that now holds the data set.

    Raises:
      UserError: the set is unknown or not image classification; TensorFlow is
        missing; the download or the preparation fails; or the directory already holds
        the set in another file format.
    """
    builder = _builder(name, data_dir)
    _class_names(name, builder)
    if not builder.data_path.exists():
        if importlib.util.find_spec("tensorflow") is None:
            raise UserError(
                f"preparing {name} needs TensorFlow (reading it afterwards does not): "
                "pip install 'robust-flat-minima[prepare]'"
            )
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # network, disk, checksums, archives
            raise UserError(
                f"cannot prepare {name} in {builder.data_path} ({reason(error)}); see "
                "to the network and the disk space, then run this again"
            ) from error
    _sources(name, builder)
    return str(builder.data_path)


def original_order(ids: Sequence[str]) -> Int64[np.ndarray, " n"] | None:
    """The permutation that brings examples back into the order of their numbers.

    ``examples[order[k]]`` is the one with the k-th smallest number. Numbers are compared
    as numbers, so that "test_10" comes after "test_9".

    Args:
      ids: one per example, in the order of the files; "train_16399", "00012.jpg".

    Returns:
      (n,) positions, or None if the ids are not one number each in the same text.
    """
    numbered = [re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", id_, re.DOTALL) for id_ in ids]
    parts = [match.groups() for match in numbered if match is not None]
    numbers = [int(number) for _, number, _ in parts]
    texts = {(before, after) for before, _, after in parts}
    if len(texts) != 1 or len(set(numbers)) != len(ids):
        return None
    return np.array(sorted(range(len(ids)), key=numbers.__getitem__))


def suggestion(name: str) -> str:
    """The name of a TFDS data set that resembles `name`, or an empty string."""
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), "")


def _builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    if data_dir is not None:
        data_dir = os.path.expanduser(data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        close = suggestion(name)
        raise UserError(
            f"TFDS has no data set {name!r}"
            + (f"; did you mean {close!r}?" if close else "")
            + " (all of them: https://www.tensorflow.org/datasets/catalog)"
        ) from error
    except Exception as error:
        raise UserError(f"cannot open tfds:{name}: {reason(error)}") from error


def _class_names(name: str, builder: Any) -> list[str]:
    """The names of the classes, after a look at the features that are there."""
    import tensorflow_datasets as tfds

    features = dict((builder.info.features or {}).items())
    image, label = (features.get(key) for key in ("image", "label"))
    if not (
        isinstance(image, tfds.features.Image)
        and isinstance(label, tfds.features.ClassLabel)
        and label.num_classes
    ):
        raise UserError(
            f"tfds:{name} is not image classification: it has {', '.join(features)}, "
            "where an `image` and a class `label` are needed"
        )
    if image.np_dtype != np.uint8 or None in image.shape:
        raise UserError(
            f"tfds:{name} has images of shape {image.shape} and type "
            f"{np.dtype(image.np_dtype)}; one fixed shape in uint8 is needed"
        )
    return list(label.names)


def _sources(name: str, builder: Any) -> dict[str, Any]:
    """The splits, with random access; their images are left encoded."""
    import tensorflow_datasets as tfds

    splits = list(builder.info.splits)
    if not splits:
        raise UserError(
            f"tfds:{name}: {builder.data_path} is incomplete; remove it and run "
            f"`rfm data prepare {name}`"
        )
    if not {"train", "test"} <= set(splits):
        raise UserError(
            f"tfds:{name} has the splits {', '.join(splits)}; `train` and `test` are needed"
        )
    try:
        return {
            split: builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
            for split in ("train", "test")
        }
    except NotImplementedError as error:
        raise UserError(
            f"tfds:{name}: {builder.data_path} holds {builder.info.file_format.value} "
            "files, which only TensorFlow reads; prepare it as array_record in another "
            f"data directory with `rfm data prepare {name}`"
        ) from error
    except Exception as error:
        raise UserError(f"tfds:{name}: cannot open {builder.data_path}: {reason(error)}") from error


def _read(
    source: Any, image: Any, count: int | None = None
) -> tuple[UInt8[np.ndarray, "n h w c"], Int64[np.ndarray, " n"], bool]:
    """The first `count` images and labels of a split, and whether ids ordered them."""
    encoded: list[bytes] = []
    labels: list[int] = []
    ids: list[str] = []
    for start in range(0, len(source), _CHUNK):
        stop = min(start + _CHUNK, len(source))
        for example in source.__getitems__(list(range(start, stop))):
            encoded.append(example["image"])
            labels.append(example["label"])
            ids.append(_text(example.get("id", "")))
    order = original_order(ids)
    chosen = (np.arange(len(labels)) if order is None else order)[:count]
    images = np.empty((len(chosen), *image.shape), np.uint8)
    for row, position in zip(images, chosen, strict=True):
        row[...] = image.decode_example_np(encoded[position])
    return images, np.array(labels, np.int64)[chosen], order is not None


def _text(id_: Any) -> str:
    return id_.decode(errors="replace") if isinstance(id_, bytes) else str(id_)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Mutes TFDS's advice to install OpenCV; Pillow is fast enough here."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
