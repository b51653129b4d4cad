"""Metrics of a run: a line of JSON each, and TensorBoard.

`metrics.jsonl` holds only what is determined by the config, no times: a run that was
killed and resumed ends with the same bytes as one that was not. Every line is on disk
before the checkpoint of its step, and lines beyond a restored checkpoint are cut off.
"""

import json
import os
from pathlib import Path
from typing import Any

import tensorboardX


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and ``tensorboard/`` of `workdir`, from `step` on."""

    def __init__(self, workdir: Path, *, step: int) -> None:
        self._path = workdir / "metrics.jsonl"
        kept = [line for line in read_lines(self._path) if line["step"] <= step]
        partial = self._path.with_suffix(".tmp")
        partial.write_text("".join(_dump(line) for line in kept))
        os.replace(partial, self._path)
        self._file = self._path.open("a")
        self._tensorboard = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1, write_to_disk=True
        )

    def write(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        """One line, flushed to disk."""
        self._file.write(_dump({"kind": kind, "step": step, "epoch": epoch, **values}))
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, value in values.items():
            self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._tensorboard.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a half-written last line is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def best_snapshot(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The validation line of lowest robust error, the earliest of equals: early stopping."""
    validations = [line for line in lines if line["kind"] == "validation"]
    return min(validations, key=lambda line: (line["rerr"], line["step"]), default=None)


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True) + "\n"
