"""What becomes of the runs of a sweep.

All that is known is in files beside the runs, in ``.sweep/``: the number of the job of each, a
lock while it runs, and how it ended. So a sweep that is stopped, or killed, goes on from them,
and jobs that still wait or run are found again.
"""

import contextlib
import dataclasses
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from rfm import workdir as workdirs
from rfm.cli.sweep import job as jobs
from rfm.cli.sweep.executors import Executor, Refused, State
from rfm.cli.sweep.job import Job
from rfm.cli.sweep.plan import Planned
from rfm.cli.sweep.slots import Slot
from rfm.errors import UserError
from rfm.files import write_atomically

_STOPPED = (130, 143)  # by a signal; the state is saved
_REFUSED_SECONDS = 60.0  # until a job is submitted again that was refused


@dataclasses.dataclass
class Entry:
    """A run, and what is known of it.

    Attributes:
      run: which one.
      base: of its files in ``.sweep``.
      phase: "waiting", "queued", "running", "done" or "failed".
      number: of its job, if it has had one.
      attempts: jobs in a row that made no progress.
      slot: which share of the machine it has.
      note: why it failed, or what the scheduler says.
      seconds: of the job that ended last.
      gone_since: when its job was first missed.
      size: of its metrics when its job was submitted.
    """

    run: Planned
    base: Path
    phase: str = "waiting"
    number: str | None = None
    attempts: int = 0
    slot: int | None = None
    note: str = ""
    seconds: float | None = None
    gone_since: float | None = None
    size: int = 0

    @property
    def has_ended(self) -> bool:
        """Is there nothing more to do?"""
        return self.phase in ("done", "failed")

    @property
    def is_active(self) -> bool:
        """Is there a job of it?"""
        return self.phase in ("queued", "running")


class Conductor:
    """Starts runs and follows them; `step` once in a while until `has_ended`.

    Args:
      runs: which ones.
      folder: of the sweep's files.
      executor: starts jobs.
      slots: shares of the machine; so many jobs at a time.
      retries: how often a run is tried again that was lost and had made no progress.

    Raises:
      UserError: a job of another config, or of another executor, may still run.
    """

    def __init__(
        self,
        runs: Sequence[Planned],
        folder: Path,
        executor: Executor,
        *,
        slots: Sequence[Slot],
        retries: int,
    ) -> None:
        self._executor, self._slots, self._retries = executor, slots, retries
        self._has_submitted, self._next_submission = False, 0.0
        self._told: set[int] = set()
        self.entries = [Entry(run, folder / run.name) for run in runs]
        folder.mkdir(parents=True, exist_ok=True)
        self._find()

    @property
    def has_ended(self) -> bool:
        """Have all runs?"""
        return all(entry.has_ended for entry in self.entries)

    def step(self) -> list[Entry]:
        """Looks at what runs, starts what can be; the entries that changed."""
        before = [(entry.phase, entry.note, entry.number) for entry in self.entries]
        active = [entry for entry in self.entries if entry.is_active]
        states = self._executor.states([e.number for e in active if e.number is not None])
        for entry in active:
            self._follow(entry, states.get(entry.number or "", State("gone")))
        self._start()
        return [
            entry
            for entry, old in zip(self.entries, before, strict=True)
            if (entry.phase, entry.note, entry.number) != old
        ]

    def stop(self) -> list[Entry]:
        """Asks the runs on this machine to save and leave; those that are still there."""
        left = []
        for entry in self.entries:
            number = jobs.process_here(entry.base)
            if number is not None and number not in self._told:
                self._told.add(number)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGTERM)
            if number is not None or self._is_starting(entry):
                left.append(entry)
        return left

    def _is_starting(self, entry: Entry) -> bool:
        if not entry.is_active or entry.number is None:
            return False
        return self._executor.states([entry.number])[entry.number].phase != "gone"

    def _find(self) -> None:
        """What an earlier call left."""
        submitted = {}
        for entry in self.entries:
            result = jobs.read(jobs.result_of(entry.base), "status", "digest", "seconds")
            if result and result["status"] == 0 and result["digest"] == entry.run.digest:
                entry.phase, entry.seconds = "done", result["seconds"]
            elif job := jobs.read(_submitted(entry), "number", "digest", "executor", "slot"):
                submitted[entry.run.name] = job
        asked = [j["number"] for j in submitted.values() if j["executor"] == self._executor.name]
        states = self._executor.states(asked)
        for entry in self.entries:
            if (job := submitted.get(entry.run.name)) is None:
                continue
            state = states.get(job["number"], State("gone"))
            is_other = job["executor"] == "slurm" != self._executor.name
            has_ended = jobs.read(jobs.result_of(entry.base), "status") is not None
            if state.phase == "gone" and not jobs.is_running(entry.base):
                if is_other and not has_ended:
                    raise UserError(
                        f"{entry.run.name} may still be job {job['number']} of Slurm: give"
                        f" --executor slurm, or cancel it and remove {_submitted(entry)}"
                    )
                continue
            if job["digest"] != entry.run.digest:
                raise UserError(
                    f"job {job['number']} of another config of {entry.run.name} still runs: stop it"
                    " first, or give another --workdir"
                )
            entry.phase = "running" if state.phase == "gone" else state.phase
            entry.number, entry.slot = job["number"], job["slot"]
            entry.note = "found again"

    def _follow(self, entry: Entry, state: State) -> None:
        # On a cluster the scheduler knows, and locks of its disks may be stale or none.
        on = self._executor.name == "local" and jobs.is_running(entry.base)
        if state.phase != "gone" or on:
            entry.phase = "running" if state.phase == "gone" else state.phase
            if entry.phase == "queued" or "answer" in state.reason:
                entry.note = state.reason
            entry.gone_since = None
            return
        result = jobs.read(jobs.result_of(entry.base), "status", "line", "digest", "seconds")
        if result is None or result["digest"] != entry.run.digest:
            entry.gone_since = entry.gone_since or time.monotonic()
            os.utime(entry.base.parent)  # disks of a network keep what they saw for a while
            if time.monotonic() - entry.gone_since < self._executor.patience:
                return
            result = None
        entry.slot = entry.gone_since = None
        status = result["status"] if result else None
        entry.seconds = result["seconds"] if result else None
        if _metrics_size(entry) > entry.size:
            entry.attempts = 1
        why = _ending(status) + (f", {state.reason}" if state.reason else "")
        if status == 0:
            entry.phase, entry.note = "done", ""
        elif state.reason.startswith("cancelled"):
            entry.phase, entry.note = "failed", "the job was cancelled"
        elif not may_try_again(status):
            entry.phase, entry.note = "failed", result["line"] if result else ""
        elif entry.attempts > self._retries:
            entry.phase = "failed"
            entry.note = f"{why}, {entry.attempts} times in a row; --retries allows no more"
        else:
            entry.phase, entry.note = "waiting", f"{why}; again"

    def _start(self) -> None:
        taken = {entry.slot for entry in self.entries if entry.is_active}
        free = [number for number in range(len(self._slots)) if number not in taken]
        for entry in self.entries:
            if entry.phase != "waiting" or not free or time.monotonic() < self._next_submission:
                continue
            try:
                self._submit(entry, free[0])
            except Refused as refusal:
                if not self._has_submitted:
                    raise
                entry.note = str(refusal)
                self._next_submission = time.monotonic() + _REFUSED_SECONDS
            except UserError as error:  # its folder belongs to another config
                entry.phase, entry.note = "failed", str(error)
            else:
                free.pop(0)

    def _submit(self, entry: Entry, slot: int) -> None:
        workdirs.claim(entry.run.workdir, entry.run.config)
        environment, cores = self._slots[slot]
        job = Job(entry.run.command, entry.base, entry.run.digest, environment, cores)
        jobs.result_of(entry.base).unlink(missing_ok=True)
        entry.size = _metrics_size(entry)
        entry.number = self._executor.submit(job, entry.run.name)
        self._has_submitted = True
        entry.attempts += 1
        entry.phase, entry.note, entry.slot = "queued", "", slot
        content = {
            "number": entry.number,
            "digest": entry.run.digest,
            "executor": self._executor.name,
            "slot": slot,
        }
        write_atomically(_submitted(entry), json.dumps(content) + "\n")


def may_try_again(status: int | None) -> bool:
    """Would the same command do better? Not if it was wrong, or training failed.

    Args:
      status: of ``rfm run``; negative: killed by that signal; None: nobody knows.
    """
    return status is None or status < 0 or status == jobs.BUSY or status > 128


def _ending(status: int | None) -> str:
    if status is None:
        return "the job vanished"
    if status in _STOPPED:
        return "preempted"
    return "another job" if status == jobs.BUSY else f"killed by signal {abs(status) % 128}"


def _metrics_size(entry: Entry) -> int:
    path = entry.run.workdir / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def _submitted(entry: Entry) -> Path:
    return jobs.file_of(entry.base, "job.json")
