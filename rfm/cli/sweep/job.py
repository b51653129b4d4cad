"""What runs one run of a sweep, on this machine or on a node of a cluster.

submitit pickles a `Job` for the process that calls it. That process starts ``rfm run`` in a
process of its own and writes how it ended to a file. Both hold a lock: it tells that the run
goes on, even if one of them was killed. Schedulers forget jobs; these files are what is asked.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import submitit

from rfm.files import write_atomically

BUSY = 75  # another job of this run goes on: try again later
_SAVE_SECONDS = 90  # to write a checkpoint when the job must leave
_LOCK_SECONDS = 60  # the job before may be about to end
_FOR_THE_JOB = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
_TAIL = 4096  # bytes that hold a last line


@dataclasses.dataclass
class Job:
    """A call starts the command; returns its exit status.

    Attributes:
      command: the program and its arguments.
      base: path of the files of this run without suffix: ``.result.json``, ``.lock``, ``.out``
        and ``.err``.
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
        self._child: subprocess.Popen[bytes] | None = None
        self._must_leave = False

    def __call__(self) -> int:
        # submitit lets SIGTERM pass by, and a scheduler may send it to this process alone.
        signal.signal(signal.SIGTERM, lambda number, frame: self._terminate())
        started = time.time()
        with _held(lock_of(self.base)) as lock:
            if lock is None:
                status, line = BUSY, "another job of this run goes on"
            else:
                result_of(self.base).unlink(missing_ok=True)
                status = self._run(lock)
                line = _last_line(file_of(self.base, "err"))
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
        self._terminate()
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_SAVE_SECONDS)
        return submitit.helpers.DelayedSubmission(dataclasses.replace(self))

    def _run(self, lock: IO[str]) -> int:
        environment = {**os.environ, **self.environment}
        if self.cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)
        with (
            file_of(self.base, "out").open("ab") as out,
            file_of(self.base, "err").open("ab") as err,
            _kept_from_the_child(),
        ):
            self._child = subprocess.Popen(
                self.command,
                env={k: v for k, v in environment.items() if v is not None},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
            )
        lock.write(json.dumps({"pid": self._child.pid, "host": socket.gethostname()}))
        lock.flush()
        if self._must_leave:  # the signal came before the child was known
            self._child.terminate()
        return self._child.wait()

    def _terminate(self) -> None:
        self._must_leave = True
        if self._child is not None:
            self._child.terminate()


def file_of(base: Path, suffix: str) -> Path:
    """A file of a run: "out" and "err" are what it said."""
    return base.with_name(f"{base.name}.{suffix}")


def result_of(base: Path) -> Path:
    """Where a job writes how it ended."""
    return file_of(base, "result.json")


def lock_of(base: Path) -> Path:
    """What a run holds while it goes on; says where it runs."""
    return file_of(base, "lock")


def read(path: Path, *fields: str) -> dict[str, Any] | None:
    """A file of JSON with these fields; None if there is none, or a damaged one."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= set(fields) else None


def is_running(base: Path) -> bool:
    """Does anybody hold the lock? Not known, so false, where file systems have none."""
    try:
        with lock_of(base).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def process_here(base: Path) -> int | None:
    """The process of a run that goes on on this machine."""
    where = read(lock_of(base), "pid", "host") if is_running(base) else None
    return int(where["pid"]) if where and where["host"] == socket.gethostname() else None


@contextlib.contextmanager
def _kept_from_the_child() -> Iterator[None]:
    """Signals by which submitit tells the job to leave would end the run unsaved.

    A process that is started within never sees them; this one sees them afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_JOB)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[IO[str] | None]:
    """The lock, or None if another has it; file systems without locks have none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + _LOCK_SECONDS
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    yield None
                    return
                time.sleep(0.2)
                continue
            except OSError:
                pass
            break
        file.seek(0)
        file.truncate()
        yield file


def _last_line(path: Path) -> str:
    """The last thing that is in a log."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL, 0))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
