"""Where jobs run: submitit starts them, and here is asked what became of them.

On Slurm that is asked of ``squeue``, which every cluster has; submitit asks ``sacct``, which
knows nothing on a cluster without accounting.
"""

import contextlib
import signal
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import submitit

from rfm.cli.sweep.job import Job
from rfm.errors import UserError

_YEAR = 365 * 24 * 60  # minutes
_SAVE_SECONDS = 120  # between the signal and the end of the time limit
_NO_LIMIT = 1_000_000  # how often a job may come to its time limit
_QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED")
_ACTIVE = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED")


class State(NamedTuple):
    """Of a job: "queued", "running" or "gone", and what the scheduler says of it."""

    phase: str
    reason: str = ""


class Refused(UserError):
    """A job was not accepted; says why."""


class Executor(Protocol):
    """Starts jobs and knows of them.

    Attributes:
      name: "local" or "slurm".
      seconds: between two questions.
      patience: seconds until a result must be seen; disks of a cluster take their time.
    """

    name: str
    seconds: float
    patience: float

    def submit(self, job: Job, name: str) -> str:
        """Starts a job; returns its number.

        Raises:
          Refused: it is not accepted.
        """
        ...

    def states(self, numbers: Iterable[str]) -> dict[str, State]:
        """What became of jobs; those that nobody knows are gone."""
        ...


class Local:
    """Processes on this machine, which go on when this one ends.

    Args:
      folder: of logs and of submitit's own files.
    """

    name = "local"
    seconds = 0.5
    patience = 2.0

    def __init__(self, folder: Path) -> None:
        self._executor = submitit.LocalExecutor(folder)
        # It would end a job after two minutes.
        self._executor.update_parameters(timeout_min=_YEAR)
        self._jobs: dict[str, submitit.Job[int]] = {}

    def submit(self, job: Job, name: str) -> str:
        with _deaf_children():
            started = self._executor.submit(job)
        self._jobs[started.job_id] = started
        return str(started.job_id)

    def states(self, numbers: Iterable[str]) -> dict[str, State]:
        def of(number: str) -> State:
            job = self._jobs.get(number)
            return State("gone" if job is None or job.done() else "running")

        return {number: of(number) for number in numbers}


class Slurm:
    """Jobs of a Slurm cluster, one node each.

    Args:
      folder: of logs and of submitit's own files, which all nodes see.
      hours: time limit of a job; before it ends, the run saves, and the job queues again.
      cpus: for each job; 0: Slurm's default.
      options: parameters of submitit, such as ``partition``.
      more: options of sbatch.

    Raises:
      UserError: there is no Slurm here.
    """

    name = "slurm"
    seconds = 5.0
    patience = 90.0

    def __init__(
        self,
        folder: Path,
        *,
        hours: float,
        cpus: int = 0,
        options: Mapping[str, Any],
        more: Mapping[str, Any],
    ) -> None:
        try:
            self._executor = submitit.SlurmExecutor(folder, max_num_timeout=_NO_LIMIT)
        except RuntimeError as error:
            raise UserError(
                f"--executor slurm: {error}; is this a login node? (--executor local needs none)"
            ) from None
        if cpus:
            # Since Slurm 22.05 srun does not take it from sbatch by itself.
            options = {**options, "cpus_per_task": cpus, "srun_args": [f"--cpus-per-task={cpus}"]}
        self._executor.update_parameters(
            time=int(60 * hours),
            signal_delay_s=_SAVE_SECONDS,
            additional_parameters={"requeue": True, **more},
            **options,
        )

    def submit(self, job: Job, name: str) -> str:
        self._executor.update_parameters(job_name=f"rfm-{name}")
        try:
            return str(self._executor.submit(job).job_id)
        except (RuntimeError, subprocess.SubprocessError, OSError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise Refused(f"sbatch refuses {name}: {lines[-1]}") from None

    def states(self, numbers: Iterable[str]) -> dict[str, State]:
        asked = list(numbers)
        found = dict.fromkeys(asked, State("gone"))
        if not asked:
            return found
        # An unknown job among several is left out, a single one is an error: ask of two.
        listed = ",".join([*asked, asked[0]])
        command = ["squeue", "--noheader", "--states=all", f"--jobs={listed}", "--format=%i|%T|%r"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=60)
            silent = bool(said.returncode) and "Invalid job id" not in said.stderr
        except (subprocess.SubprocessError, OSError):
            silent = True
        if silent:  # too busy: nothing is known to have changed
            return dict.fromkeys(asked, State("running", "squeue does not answer"))
        for line in said.stdout.splitlines():
            number, _, rest = line.partition("|")
            name, _, reason = rest.partition("|")
            known = "queued" if name in _QUEUED else "running" if name in _ACTIVE else "gone"
            more = "" if reason in ("None", "") else f" ({reason})"
            found[number] = State(known, f"{name}{more}".lower().replace("_", " "))
        return found


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started within do not hear of Ctrl-C, nor of a terminal that is closed."""
    numbers = (signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


# submitit warns that it cannot ask sacct; it is never asked.
warnings.filterwarnings("ignore", message="Call #.*sacct", module="submitit")
