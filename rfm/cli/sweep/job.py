"""What runs one run of a sweep, on this machine or on a node of a cluster.

submitit pickles a `Job` for the process that calls it. That process starts ``rfm run`` in a
process of its own, holds a lock as long as it runs, and writes how it ended to a file. Nothing
but this file and the lock is asked later: schedulers forget jobs.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import submitit

from rfm.workdir import write_atomically

_SAVE_SECONDS = 90  # to write a checkpoint when the job must leave


@dataclasses.dataclass
class Job:
    """A call starts the command; returns its exit status.

    Attributes:
      command: the program and its arguments.
      base: path of the files of this run without suffix: ``.result.json`` and ``.lock``.
      digest: of the config, for the result.
      environment: variables to set, or to remove where None.
      cores: processors that it may use; None: as it comes.
    """

    command: tuple[str, ...]
    base: Path
    digest: str
    environment: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    cores: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def __call__(self) -> int:
        # From a terminal it reaches all processes; the sweep tells them in its own way.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with _held(lock_of(self.base)) as lock:
            result_of(self.base).unlink(missing_ok=True)
            environment = {**os.environ, **self.environment}
            if self.cores is not None and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, self.cores)
            started = time.time()
            self._child = subprocess.Popen(
                self.command,
                env={k: v for k, v in environment.items() if v is not None},
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                text=True,
                errors="replace",
            )
            lock.write(json.dumps({"pid": self._child.pid, "host": socket.gethostname()}))
            lock.flush()
            line = _last_line(self._child)
            status = self._child.wait()
            result = {
                "status": status,
                "line": line,
                "digest": self.digest,
                "host": socket.gethostname(),
                "seconds": time.time() - started,
            }
            write_atomically(result_of(self.base), json.dumps(result) + "\n")
        return status

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit when the job must leave: saves, and asks to be queued again."""
        if self._child is not None:
            self._child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_SAVE_SECONDS)
        return submitit.helpers.DelayedSubmission(dataclasses.replace(self))


def result_of(base: Path) -> Path:
    """Where a job writes how it ended."""
    return base.with_name(f"{base.name}.result.json")


def lock_of(base: Path) -> Path:
    """What a job holds while it runs; says where it runs."""
    return base.with_name(f"{base.name}.lock")


def read(path: Path) -> dict[str, Any] | None:
    """A file of JSON, None if there is none, or a damaged one."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_running(base: Path) -> bool:
    """Does a job hold the lock?"""
    try:
        with lock_of(base).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def stop(base: Path) -> None:
    """Asks a job on this machine to save and leave."""
    where = read(lock_of(base))
    if is_running(base) and where and where["host"] == socket.gethostname():
        with contextlib.suppress(ProcessLookupError):
            os.kill(where["pid"], signal.SIGTERM)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[IO[str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the one before may be about to end
        file.seek(0)
        file.truncate()
        yield file


def _last_line(child: subprocess.Popen[str]) -> str:
    """The last thing that it said on stderr, all of which goes to ours."""
    last = ""
    assert child.stderr is not None
    for text in child.stderr:
        sys.stderr.write(text)
        last = text.strip() or last
    return last
