"""Batches of a training set that is too large for the devices' memory, or for the host's.

Grain reads the examples of coming steps in threads while the devices compute, in the order that
the caller says: what is read for step t depends on t alone. So a stream begins at any step, a
resumed run is the same run, and each of several processes reads only the rows of its own
devices.
"""

import errno
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Int, UInt8

_AHEAD = 4  # steps that are read before they are asked for, at least


class Rows(NamedTuple):
    """Examples of some steps: images (steps, n, h, w, c) in uint8, labels (steps, n)."""

    images: UInt8[np.ndarray, "steps n h w c"]
    labels: Int[np.ndarray, "steps n"]


class Source:
    """Images and labels by row; of a memory map only the rows that are asked for are read.

    Args:
      images: (n, h, w, c), perhaps mapped from a file.
      labels: (n,).
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self._images, self._labels = images, labels
        self._file: int | None = None
        mapped = _mapped(images)
        if mapped is not None and images.flags.c_contiguous:
            # Threads wait for reads at the same time; for pages of a map, one after the other.
            self._file = os.open(str(mapped.filename), os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            starts = (a.__array_interface__["data"][0] for a in (images, mapped))
            self._offset = mapped.offset + next(starts) - next(starts)
            self._size = int(np.prod(images.shape[1:], dtype=np.int64))

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        if self._file is None:
            image = np.asarray(self._images[row])
        else:
            content = os.pread(self._file, self._size, self._offset + row * self._size)
            if len(content) != self._size:
                raise OSError(errno.EIO, f"image {row} of the training set cannot be read")
            image = np.frombuffer(content, np.uint8).reshape(self._images.shape[1:])
        return {"images": image, "labels": np.asarray(self._labels[row])}


def _mapped(array: np.ndarray) -> np.memmap | None:
    """The memory map that an array is a part of, the whole of it."""
    found: np.memmap | None = None
    where: object = array
    while isinstance(where, np.ndarray):
        found, where = (where if isinstance(where, np.memmap) else found), where.base
    return None if found is None or found.filename is None else found


class _Order:
    """Which row comes at which place; a source of Grain's."""

    def __init__(self, rows_of: Callable[[int], Int[np.ndarray, " n"]], first: int, steps: int):
        self._rows_of, self._first, self._steps = rows_of, first, steps
        self._length = len(rows_of(first))

    def __len__(self) -> int:
        return self._steps * self._length

    def __getitem__(self, place: int) -> int:
        step, position = divmod(int(place), self._length)
        return int(self._rows_of(self._first + step)[position])


def stream(
    source: Any,
    rows_of: Callable[[int], Int[np.ndarray, " n"]],
    *,
    first: int,
    last: int,
    threads: int,
) -> Iterator[Rows]:
    """The examples of each step from `first` to `last`, one step at a time.

    Args:
      source: what has ``source[row]``, a dictionary of `images` and `labels`.
      rows_of: the rows of a step, always the same number of them.
      first: the first step.
      last: the step after the last one.
      threads: that read at the same time.

    Yields:
      `Rows` of one step: images (1, n, h, w, c), labels (1, n).
    """
    if last <= first:
        return
    order = _Order(rows_of, first, last - first)
    n = len(rows_of(first))
    examples = grain.MapDataset.source(order).map(source.__getitem__)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(_AHEAD * n, threads))
    for batch in examples.to_iter_dataset(options).batch(n):
        yield Rows(batch["images"][None], batch["labels"][None])
