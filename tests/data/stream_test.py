"""Streams: the right examples in the right order, from memory or from a file."""

import threading
import time

import numpy as np
import pytest

from rfm.data.stream import Source, stream

N, SHAPE = 60, (4, 4, 3)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, *SHAPE), np.uint8)
    return images, np.arange(N, dtype=np.int32)


@pytest.fixture
def mapped(arrays, tmp_path):
    np.save(tmp_path / "images.npy", arrays[0])
    return np.load(tmp_path / "images.npy", mmap_mode="r"), arrays[1]


def rows_of(step: int) -> np.ndarray:
    return (np.arange(5) * 7 + step * 11) % N


@pytest.mark.parametrize("threads", [1, 8])
def test_steps_have_their_rows_wherever_a_stream_begins(arrays, threads):
    source = Source(*arrays)
    for first in (0, 3):
        found = list(stream(source, rows_of, first=first, last=9, threads=threads))
        assert len(found) == 9 - first
        for step, rows in enumerate(found, start=first):
            expected = rows_of(step)
            np.testing.assert_array_equal(rows.labels, expected[None])
            np.testing.assert_array_equal(rows.images, arrays[0][expected][None])


def test_a_stream_may_be_empty(arrays):
    assert list(stream(Source(*arrays), rows_of, first=4, last=4, threads=2)) == []


def test_a_memory_map_gives_what_is_in_it(arrays, mapped):
    images, labels = mapped
    for view in (images, np.asarray(images), images[:40], np.asarray(images)[10:], images[5:][3:]):
        source = Source(view, labels[: len(view)])
        for row in (0, 7, len(view) - 1):
            np.testing.assert_array_equal(source[row]["images"], np.asarray(view)[row])
    every_other = Source(images[::2], labels[::2])  # not one piece of the file
    np.testing.assert_array_equal(every_other[3]["images"], arrays[0][6])


def test_threads_read_at_the_same_time(arrays):
    active, most, lock = 0, 0, threading.Lock()

    class Slow:
        def __getitem__(self, row):
            nonlocal active, most
            with lock:
                active += 1
                most = max(most, active)
            time.sleep(0.002)
            with lock:
                active -= 1
            return {"images": arrays[0][row], "labels": arrays[1][row]}

    found = list(stream(Slow(), rows_of, first=0, last=12, threads=6))
    assert 3 <= most <= 6
    np.testing.assert_array_equal(
        np.concatenate([rows.labels[0] for rows in found]),
        np.concatenate([rows_of(step) for step in range(12)]),
    )


def test_what_goes_wrong_in_a_thread_reaches_the_caller(mapped, tmp_path):
    source = Source(*mapped)
    with (tmp_path / "images.npy").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(OSError, match="training set cannot be read"):
        list(stream(source, rows_of, first=0, last=9, threads=2))
