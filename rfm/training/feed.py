"""What the steps of a dispatch are fed with: a data set on the device, or a stream.

Both are asked for the data of the next dispatch while the devices work on this one.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from rfm.data.extra import Labelled
from rfm.data.stream import Rows, Source, stream
from rfm.devices import AXIS, replicate
from rfm.training.build import Run
from rfm.training.dispatch import Dispatch, make_dispatch, make_stream_dispatch, rows_of_step
from rfm.training.step import TrainBatch

_MOST_BYTES = 1 << 29  # of images in a dispatch


class Feed(Protocol):
    """Data for dispatches.

    Attributes:
      dispatch: what takes them.
      longest: the most steps that one dispatch takes.
    """

    dispatch: Dispatch
    longest: int

    def take(self, steps: int) -> PyTree:
        """The data of the next dispatch, on the devices, for so many steps."""
        ...


class Resident:
    """The whole training set on every device, given to every dispatch."""

    def __init__(self, run: Run, extra: Labelled | None) -> None:
        config, dataset = run.config.train, run.dataset
        self.longest = min(config.steps_per_dispatch, run.steps_per_epoch)
        self.dispatch = make_dispatch(
            run.method,
            run.network,
            run.mesh,
            batch_size=config.batch_size,
            longest=self.longest,
        )
        own = (dataset.train_images, dataset.train_labels)
        sources = (own,) if extra is None else (own, extra)
        self._data = tuple(TrainBatch(*replicate(tuple(s), run.mesh)) for s in sources)

    def take(self, steps: int) -> tuple[TrainBatch, ...]:
        return self._data


class Streamed:
    """Batches from `rfm.data.stream`, from the step `first` on; by default of the data set.

    Those of two dispatches are on the devices at a time, so dispatches of large images are
    shorter than the config says: at most half a GiB.
    """

    def __init__(self, run: Run, first: int, *, source: Any = None) -> None:
        self._mesh, self._per_step = run.mesh, run.method.optimiser.batches
        self._batch_size = run.config.train.batch_size
        bytes_per_step = self._per_step * self._batch_size * math.prod(run.dataset.image_shape)
        self.longest = max(
            min(
                run.config.train.steps_per_dispatch,
                run.steps_per_epoch,
                _MOST_BYTES // bytes_per_step,
            ),
            1,
        )
        self.dispatch = make_stream_dispatch(
            run.method, run.network, run.mesh, longest=self.longest
        )
        dataset = run.dataset
        rows = rows_of_step(
            run.key("train"), len(dataset.train_labels), self._batch_size, self._per_step
        )
        mine = _own_positions(run.mesh, self._batch_size)
        self._coming: Iterator[Rows] = stream(
            source or Source(dataset.train_images, dataset.train_labels),
            functools.partial(_rows_here, rows, self._batch_size, mine),
            first=first,
            last=run.total_steps,
            threads=run.config.data.stream,
        )

    def take(self, steps: int) -> TrainBatch:
        taken = [next(self._coming) for _ in range(steps)]
        taken += taken[-1:] * (self.longest - steps)  # not looked at
        return TrainBatch(
            *(self._placed(np.concatenate(parts)) for parts in zip(*taken, strict=True))
        )

    def _placed(self, rows: np.ndarray) -> Array:
        """(steps, batches x rows here, ...) as (steps, batches, batch, ...) over the mesh."""
        here = rows.reshape(len(rows), self._per_step, -1, *rows.shape[2:])
        shape = (*here.shape[:2], self._batch_size, *here.shape[3:])
        layout = NamedSharding(
            Mesh(self._mesh.devices, self._mesh.axis_names), PartitionSpec(None, None, AXIS)
        )
        return jax.make_array_from_process_local_data(layout, here, shape)


def _own_positions(mesh: Mesh, batch_size: int) -> Int[np.ndarray, " rows"]:
    """Which positions of a batch are on this process's devices, ascending."""
    layout = NamedSharding(Mesh(mesh.devices, mesh.axis_names), PartitionSpec(AXIS))
    parts = layout.addressable_devices_indices_map((batch_size,)).values()
    found: set[int] = set()
    for part in parts:
        found.update(range(batch_size)[part[0]] if part else range(batch_size))
    return np.array(sorted(found))


def _rows_here(
    rows_of: Callable[[int], Int[np.ndarray, " rows"]],
    batch_size: int,
    mine: Int[np.ndarray, " own"],
    step: int,
) -> Int[np.ndarray, " rows"]:
    return rows_of(step).reshape(-1, batch_size)[:, mine].ravel()
