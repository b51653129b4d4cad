"""Event files of TensorBoard, as tensorboardX encodes them."""

import os
import socket
import struct
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

from rfm.files import append


class EventFile:
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
        append(self._file, length + _checksum(length) + data + _checksum(data))


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))
