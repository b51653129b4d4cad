"""Where jobs run: submitit starts them, and here is asked what became of them.

On Slurm that is asked of ``squeue``, which every cluster has; submitit asks ``sacct``, which
knows nothing on a cluster without accounting.
"""

import os
import subprocess
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import submitit

from rfm.cli.sweep.job import Job
from rfm.errors import UserError

_YEAR = 365 * 24 * 60  # minutes
_SAVE_SECONDS = 120  # between the signal and the end of the time limit
_QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED")
_ACTIVE = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED")


class State(NamedTuple):
    """Of a job: "queued", "running" or "gone", and what the scheduler says of it."""

    phase: str
    reason: str = ""


class Executor(Protocol):
    """Starts jobs and knows of them.

    Attributes:
      seconds: between two questions.
    """

    seconds: float

    def submit(self, job: Job, name: str) -> str:
        """Starts a job; returns its number."""
        ...

    def states(self, numbers: Iterable[str]) -> dict[str, State]:
        """What became of jobs; those that nobody knows are gone."""
        ...


class Local:
    """Processes on this machine.

    Args:
      folder: of logs and of submitit's own files.
    """

    seconds = 0.5

    def __init__(self, folder: Path) -> None:
        self._executor = submitit.LocalExecutor(folder)
        # It would end a job after two minutes.
        self._executor.update_parameters(timeout_min=_YEAR)
        self._jobs: dict[str, submitit.Job[int]] = {}

    def submit(self, job: Job, name: str) -> str:
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
      options: parameters of submitit, such as ``slurm_partition``.

    Raises:
      UserError: there is no Slurm here.
    """

    seconds = 5.0

    def __init__(self, folder: Path, *, hours: float, options: dict[str, Any]) -> None:
        try:
            self._executor = submitit.SlurmExecutor(folder)
        except RuntimeError as error:
            raise UserError(
                f"--executor slurm: {error}; is this a login node? (--executor local needs none)"
            ) from None
        self._executor.update_parameters(
            time=int(60 * hours),
            signal_delay_s=_SAVE_SECONDS,
            additional_parameters={"requeue": True, **options.pop("additional_parameters", {})},
            **options,
        )

    def submit(self, job: Job, name: str) -> str:
        self._executor.update_parameters(job_name=f"rfm-{name}")
        try:
            return str(self._executor.submit(job).job_id)
        except submitit.core.utils.FailedJobError as error:
            line = str(error).strip().splitlines()[-1]
            raise UserError(f"sbatch refuses {name}: {line}") from None

    def states(self, numbers: Iterable[str]) -> dict[str, State]:
        asked = list(numbers)
        found = dict.fromkeys(asked, State("gone"))
        if not asked:
            return found
        # An unknown job among several is left out, a single one is an error: ask of two.
        listed = ",".join([*asked, asked[0]])
        command = ["squeue", "--noheader", "--states=all", f"--jobs={listed}", "--format=%i|%T|%r"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if said.returncode and "Invalid job id" not in said.stderr:
            # Too busy to answer: nothing is known to have changed.
            return dict.fromkeys(asked, State("running", "squeue does not answer"))
        for line in said.stdout.splitlines():
            number, name, reason = line.split("|", 2)
            known = "queued" if name in _QUEUED else "running" if name in _ACTIVE else "gone"
            more = "" if reason in ("None", "") else f" ({reason})"
            found[number] = State(known, f"{name}{more}".lower())
        return found


def environments(
    parallel: int, gpus: int, cores: Sequence[int]
) -> list[tuple[dict[str, str | None], tuple[int, ...] | None]]:
    """What each of `parallel` local jobs gets: variables, and processors.

    Args:
      parallel: how many run at the same time.
      gpus: for each of them; 0: all see what this process sees.
      cores: processors that this process may use.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    made: list[tuple[dict[str, str | None], tuple[int, ...] | None]] = []
    for slot in range(parallel):
        devices = visible  # submitit hides all
        if gpus:
            names = visible.split(",") if visible else [str(i) for i in range(parallel * gpus)]
            devices = ",".join(names[slot * gpus : (slot + 1) * gpus])
        share = tuple(cores[slot::parallel]) if 1 < parallel <= len(cores) else None
        made.append(({"CUDA_VISIBLE_DEVICES": devices}, share))
    return made


# submitit warns that it cannot ask sacct; it is never asked.
warnings.filterwarnings("ignore", message="Call #.*sacct", module="submitit")
