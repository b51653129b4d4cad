"""Metrics of a run: a line of JSON each, and TensorBoard.

`metrics.jsonl` holds only what is determined by the config, no times: a run that was
killed and resumed ends with the same bytes as one that was not. Every line is on disk
before the checkpoint of its step, and lines beyond a restored checkpoint are cut off.
"""

import json
import os
from pathlib import Path
from typing import Any

from rfm import processes
from rfm.errors import UserError
from rfm.files import append, write_atomically


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and ``tensorboard/`` of `workdir`, from `step` on.

    Of several processes the first one does.

    Raises:
      UserError: there is a ``metrics.jsonl``, and it is damaged.
    """

    def __init__(self, workdir: Path, *, step: int) -> None:
        processes.by_first(lambda: self._open(workdir, step))

    def _open(self, workdir: Path, step: int) -> None:
        path = workdir / "metrics.jsonl"
        kept = [line for line in read_lines(path) if line["step"] <= step]
        write_atomically(path, "".join(_dump(line) for line in kept))
        # Unbuffered: what did not fit on the disk must not be tried again on closing.
        self._file = path.open("ab", buffering=0)
        # tensorboardX imports PyTorch where that is installed, for a second.
        from rfm.training.tensorboard import EventFile

        self._tensorboard = EventFile(workdir / "tensorboard", step=step)

    def write(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        """One line, flushed to disk.

        Raises:
          OSError: it cannot be written; the file then may end in half a line.
        """
        processes.by_first(lambda: self._write(kind, step, epoch, values))

    def _write(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        line = _dump({"kind": kind, "step": step, "epoch": epoch, **values})
        append(self._file, line.encode())
        os.fsync(self._file.fileno())
        self._tensorboard.write(kind, step, values)

    def close(self) -> None:
        """Closes both."""
        if not processes.is_first():
            return
        self._file.close()
        self._tensorboard.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a half-written last line is left out.

    Raises:
      UserError: a line is damaged; the file is left as it is.
    """
    if not path.exists():
        return []
    lines = []
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not {"kind", "step"} <= line.keys():
            raise UserError(f"{path}: line {number} is damaged; restore or delete it")
        lines.append(line)
    return lines


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True) + "\n"
