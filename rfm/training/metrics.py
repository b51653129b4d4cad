"""Metrics of a run: a line of JSON each, and TensorBoard.

`metrics.jsonl` holds only what is determined by the config, no times: a run that was
killed and resumed ends with the same bytes as one that was not. Every line is on disk
before the checkpoint of its step, and lines beyond a restored checkpoint are cut off.
"""

import io
import json
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

from rfm import processes
from rfm.errors import UserError
from rfm.workdir import write_atomically


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
        self._tensorboard = _TensorBoard(workdir / "tensorboard", step=step)

    def write(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        """One line, flushed to disk.

        Raises:
          OSError: it cannot be written; the file then may end in half a line.
        """
        processes.by_first(lambda: self._write(kind, step, epoch, values))

    def _write(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        line = _dump({"kind": kind, "step": step, "epoch": epoch, **values})
        _append(self._file, line.encode())
        os.fsync(self._file.fileno())
        self._tensorboard.write(kind, step, values)

    def close(self) -> None:
        """Closes both."""
        if not processes.is_first():
            return
        self._file.close()
        self._tensorboard.close()


class _TensorBoard:
    """An event file, written at once: tensorboardX's own writer does it in a thread.

    That thread loses what a killed process had not written yet, and on a full disk it
    dies and lets the next call wait for ever.
    """

    def __init__(self, directory: Path, *, step: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        host = f"{socket.gethostname()}.{os.getpid()}"
        path = directory / f"events.out.tfevents.{time.time():010.0f}.{host}"
        self._file = path.open("ab", buffering=0)
        self._write(Event(file_version="brain.Event:2"))
        # Hides what an earlier process wrote of the steps that are computed again.
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """One event per value."""
        for name, value in values.items():
            self._write(Event(step=step, summary=scalar(f"{kind}/{name}", value)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        _append(self._file, length + _checksum(length) + data + _checksum(data))


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


def _append(file: io.FileIO, data: bytes) -> None:
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from None


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True) + "\n"
