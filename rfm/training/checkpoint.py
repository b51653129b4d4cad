"""Checkpoints: written while training goes on, verified when read.

Orbax writes to a temporary folder and renames it when complete, so a killed process
leaves either a whole checkpoint or none. Each holds a checksum of every array beside
the arrays: storage that silently changed is found out, and the checkpoint before it is
used. The two latest are kept for resuming, and all snapshots (every so many epochs)
for early stopping and for measures through training.
"""

import itertools
import logging
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy

from rfm.errors import UserError
from rfm.training.state import TrainState, copy_state

Warn = Callable[[str], None]


class Checkpoints:
    """The checkpoints of one run; use it as a context manager.

    Args:
      directory: where they are; made if it is missing.
      snapshot_steps: checkpoints at multiples of this many steps are kept for good.
      read_only: only read; nothing in `directory` is made, changed or cleaned up.
    """

    def __init__(
        self, directory: Path, *, snapshot_steps: int, read_only: bool = False
    ) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._directory = directory.absolute()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [
                        preservation_policy.LatestN(2),
                        preservation_policy.EveryNSteps(snapshot_steps),
                    ]
                ),
                enable_async_checkpointing=True,
                # What a killed process was writing.
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps of all checkpoints that are complete, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState) -> None:
        """Writes `state` in the background; returns when the state may be donated."""
        state = copy_state(state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), checksums=ocp.args.JsonSave(_checksums(state))
            ),
            force=True,
        )

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The checkpoint of `step`, laid out over devices as `like`.

        Raises:
          UserError: it does not exist, cannot be read, has other arrays than `like`, or
            its contents have changed since they were written.
        """
        where = self._directory / str(step)
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
            for other, error in damaged.items():
                moved = self._set_aside(other)
                warn(f"{error}; moved to {moved}, using the one of step {step}")
            return state
        if damaged:
            raise UserError(
                f"no checkpoint in {self._directory} is whole; start in a new workdir"
                f" ({next(iter(damaged.values()))})"
            )
        return None

    def _set_aside(self, step: int) -> Path:
        damaged = self._directory.parent / "damaged"
        damaged.mkdir(exist_ok=True)
        names = itertools.chain([str(step)], (f"{step}.{i}" for i in itertools.count(1)))
        target = next(damaged / name for name in names if not (damaged / name).exists())
        shutil.move(self._directory / str(step), target)
        self._manager.reload()
        return target


def _checksums(tree: PyTree) -> dict[str, int]:
    def crc(leaf: Any) -> int:
        return zlib.crc32(np.ascontiguousarray(jax.device_get(leaf)).tobytes())

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): crc(leaf) for p, leaf in leaves}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
