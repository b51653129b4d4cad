"""Checkpoints: written while training goes on, verified when read.

Orbax writes to a temporary folder and renames it when complete, so a killed process
leaves either a whole checkpoint or none. Each holds a checksum of every array beside
the arrays: storage that silently changed is found out, and the checkpoint before it is
used. The two latest are kept for resuming, and all snapshots (every so many epochs)
for early stopping and for measures through training.

Of several processes the first one reads and writes, and tells the others what it read: they
need not see its file system, and may be another number than wrote it. (The state is the same
on all of them, so nothing is gained by writing it in parts.)
"""

import contextlib
import dataclasses
import errno
import functools
import itertools
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy

from rfm import processes
from rfm.devices import fetch, replicate
from rfm.errors import UserError
from rfm.training.state import TrainState, copy_state
from rfm.types import leaf_name

Warn = Callable[[str], None]


class Checkpoints:
    """The checkpoints of one run; use it as a context manager.

    Args:
      directory: where they are; made if it is missing.
      snapshot_steps: checkpoints at multiples of this many steps are kept for good.
      read_only: only read; nothing in `directory` is made, changed or cleaned up.
    """

    def __init__(self, directory: Path, *, snapshot_steps: int, read_only: bool = False) -> None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # all of it arrives as exceptions
        self._directory = directory.absolute()
        processes.by_first(lambda: self._open(snapshot_steps, read_only))

    def _open(self, snapshot_steps: int, read_only: bool) -> None:
        kept = [preservation_policy.LatestN(2), preservation_policy.EveryNSteps(snapshot_steps)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(kept),
            enable_async_checkpointing=True,
            # What a killed process was writing.
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        if processes.count() > 1:
            options.create = False  # not possible with active_processes
            if not read_only:
                self._directory.mkdir(parents=True, exist_ok=True)
            options.multiprocessing_options = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="rfm"
            )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        if not processes.is_first():
            return
        with self._writing():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()

    def steps(self) -> list[int]:
        """Steps of all checkpoints that are complete, ascending."""
        steps: list[int] = processes.by_first(lambda: sorted(self._manager.all_steps()))
        return steps

    def save(self, step: int, state: TrainState) -> None:
        """Writes `state` in the background; returns when the state may be donated.

        Raises:
          UserError: there is no room for it, or for the one before; those that were
            complete are kept. The last one may also fail on leaving the context.
        """
        if processes.count() == 1:
            state = copy_state(state)

        def write() -> None:
            # With other processes, of arrays on the host: those on a device belong to all.
            tree = _tree(state if processes.count() == 1 else fetch(state))
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(tree), checksums=ocp.args.JsonSave(_checksums(tree))
            )
            with self._writing():
                self._manager.save(step, args=args, force=True)

        processes.by_first(write)

    def finish(self) -> None:
        """Waits until everything is written; all processes do.

        Raises:
          UserError: there is no room for the last one.
        """

        def wait() -> None:
            with self._writing():
                self._manager.wait_until_finished()

        processes.by_first(wait)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The checkpoint of `step`, laid out over devices as `like`.

        Raises:
          UserError: it does not exist, cannot be read, has other arrays than `like`, or
            its contents have changed since they were written.
        """
        fields, structure = jax.tree.flatten(_tree(like))
        found: list[PyTree] = []
        processes.by_first(lambda: found.append(self._read(step, _tree(like))))
        if processes.count() == 1:
            return TrainState(**found[0])
        arrays = jax.tree.leaves(found[0]) if found else fetch(fields)
        told = processes.from_first([np.asarray(array) for array in arrays])
        placed = [replicate(a, leaf.sharding.mesh) for a, leaf in zip(told, fields, strict=True)]
        return TrainState(**jax.tree.unflatten(structure, placed))

    def _read(self, step: int, like: PyTree) -> PyTree:
        where = self._directory / str(step)
        if processes.count() > 1:  # onto the host
            like = jax.tree.map(np.asarray, like)
        if step not in self._manager.all_steps():
            raise UserError(f"no checkpoint of step {step} in {self._directory}")
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(like), checksums=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:  # Orbax and TensorStore raise whatever they like here
            raise UserError(f"checkpoint {where} cannot be read: {_first_line(error)}") from error
        changed = [k for k, v in _checksums(found.state).items() if found.checksums.get(k) != v]
        if changed:
            raise UserError(
                f"checkpoint {where} is damaged: {changed[0]} differs from its checksum"
            )
        return found.state

    def restore_latest(self, like: TrainState, warn: Warn) -> TrainState | None:
        """The newest checkpoint that is whole, or None if there is none at all.

        Damaged ones newer than that are reported and moved to ``damaged/`` beside the
        others.

        Raises:
          UserError: there are checkpoints, but none of them is whole; all are left where
            they are.
        """
        damaged: dict[int, UserError] = {}
        for step in reversed(self.steps()):
            try:
                state = self.restore(step, like)
            except UserError as error:
                damaged[step] = error
                continue
            for other, reason in damaged.items():
                moved = processes.by_first(functools.partial(self._set_aside, other))
                warn(f"{reason}; moved to {moved}, using the one of step {step}")
            return state
        if damaged:
            raise UserError(
                f"no checkpoint in {self._directory} is whole; start in a new workdir"
                f" ({next(iter(damaged.values()))})"
            )
        return None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in one line what the operating system has against writing."""
        try:
            yield
        except Exception as error:  # TensorStore has ValueErrors for it
            known = {os.strerror(code) for code in errno.errorcode}
            reasons = [reason for reason in known if reason in str(error)]
            if not reasons:
                raise
            raise UserError(
                f"cannot write a checkpoint to {self._directory}: {reasons[0]}; those written"
                " before are kept, and the same command goes on from there"
            ) from error

    def _set_aside(self, step: int) -> str:
        damaged = self._directory.parent / "damaged"
        damaged.mkdir(exist_ok=True)
        names = itertools.chain([str(step)], (f"{step}.{i}" for i in itertools.count(1)))
        target = next(damaged / name for name in names if not (damaged / name).exists())
        shutil.move(self._directory / str(step), target)
        self._manager.reload()
        return str(target)


def _tree(state: TrainState) -> dict[str, PyTree]:
    """Its fields; one that is not in use is not stored, so older checkpoints stay readable."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if value is not None}


def _checksums(tree: PyTree) -> dict[str, int]:
    def crc(leaf: Any) -> int:
        return zlib.crc32(np.ascontiguousarray(jax.device_get(leaf)).tobytes())

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(p): crc(leaf) for p, leaf in leaves}


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    # TensorStore appends a page of JSON.
    return re.split(r"\.? See full TensorStore| \[tensorstore_spec", line)[0][:200]
