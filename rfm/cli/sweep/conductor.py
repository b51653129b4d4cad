"""What becomes of the runs of a sweep.

All that is known is in files beside the runs, in ``.sweep/``: the number of the job of each, a
lock while it runs, and how it ended. So a sweep that is stopped, or killed, goes on from them:
jobs that still wait or run are found again, and none is started twice.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

from rfm.cli.job import LOST
from rfm.cli.sweep import job as jobs
from rfm.cli.sweep.executors import Executor, State
from rfm.cli.sweep.job import Job
from rfm.cli.sweep.plan import Planned
from rfm.workdir import write_atomically

_STOPPED = (130, 143)  # by a signal; the state is saved
_GONE_SECONDS = 10.0  # a result may take so long to reach this machine's view of the disk

Slot = tuple[dict[str, str | None], tuple[int, ...] | None]


@dataclasses.dataclass
class Entry:
    """A run, and what is known of it.

    Attributes:
      run: which one.
      base: of its files in ``.sweep``.
      phase: "waiting", "queued", "running", "done" or "failed".
      number: of its job, if it has had one.
      attempts: jobs so far, of this call.
      slot: which share of the machine it has.
      note: why it failed, or what the scheduler says.
      seconds: of the job that ended last.
      gone_since: when its job was first missed.
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

    @property
    def has_ended(self) -> bool:
        """Is there nothing more to do?"""
        return self.phase in ("done", "failed")


class Conductor:
    """Starts runs and follows them; `step` once in a while until `has_ended`.

    Args:
      runs: which ones.
      folder: of the sweep's files.
      executor: starts jobs.
      slots: shares of the machine; so many jobs at a time.
      retries: how often a run is tried again that was lost or preempted.
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
        self.entries = [Entry(run, folder / run.name) for run in runs]
        folder.mkdir(parents=True, exist_ok=True)
        for entry in self.entries:
            self._find(entry)

    @property
    def has_ended(self) -> bool:
        """Have all runs?"""
        return all(entry.has_ended for entry in self.entries)

    def step(self) -> list[Entry]:
        """Looks at what runs, starts what can be; the entries that changed."""
        before = [(entry.phase, entry.note, entry.number) for entry in self.entries]
        active = [entry for entry in self.entries if entry.phase in ("queued", "running")]
        states = self._executor.states([e.number for e in active if e.number is not None])
        for entry in active:
            self._follow(entry, states.get(entry.number or "", State("gone")))
        self._start()
        return [
            entry
            for entry, old in zip(self.entries, before, strict=True)
            if (entry.phase, entry.note, entry.number) != old
        ]

    @property
    def is_active(self) -> bool:
        """Does a job run on this machine?"""
        return any(jobs.is_running(entry.base) for entry in self.entries)

    def stop(self) -> None:
        """Asks the jobs on this machine to save and leave."""
        for entry in self.entries:
            jobs.stop(entry.base)

    def _find(self, entry: Entry) -> None:
        """What an earlier call left."""
        result, submitted = jobs.read(jobs.result_of(entry.base)), jobs.read(_submitted(entry))
        if result and result["status"] == 0 and result["digest"] == entry.run.digest:
            entry.phase, entry.seconds = "done", result["seconds"]
        elif submitted and submitted["digest"] == entry.run.digest:
            state = self._executor.states([submitted["number"]])[submitted["number"]]
            if state.phase != "gone" or jobs.is_running(entry.base):
                entry.phase = "running" if state.phase == "gone" else state.phase
                entry.number, entry.note = submitted["number"], "found again"

    def _follow(self, entry: Entry, state: State) -> None:
        if state.phase != "gone" or jobs.is_running(entry.base):
            entry.phase = "running" if state.phase == "gone" else state.phase
            entry.note = state.reason if entry.phase == "queued" else entry.note
            entry.gone_since = None
            return
        result = jobs.read(jobs.result_of(entry.base))
        if result is None:
            entry.gone_since = entry.gone_since or time.monotonic()
            if time.monotonic() - entry.gone_since < min(
                _GONE_SECONDS, 10 * self._executor.seconds
            ):
                return
        entry.slot = entry.gone_since = None
        status = result["status"] if result else None
        entry.seconds = result["seconds"] if result else None
        if status == 0:
            entry.phase, entry.note = "done", ""
        elif state.reason.startswith("cancelled"):
            entry.phase, entry.note = "failed", "the job was cancelled"
        elif not may_try_again(status):
            entry.phase, entry.note = "failed", result["line"] if result else ""
        elif entry.attempts > self._retries:
            entry.phase = "failed"
            entry.note = f"{_ending(status)}, {entry.attempts} times; --retries allows no more"
        else:
            entry.phase, entry.note = "waiting", f"{_ending(status)}; again"

    def _start(self) -> None:
        taken = {entry.slot for entry in self.entries if entry.slot is not None}
        adopted = sum(e.slot is None and e.phase in ("queued", "running") for e in self.entries)
        free = [number for number in range(len(self._slots)) if number not in taken]
        free = free[: max(len(free) - adopted, 0)]
        for entry in self.entries:
            if entry.phase == "waiting" and free:
                entry.slot = free.pop(0)
                self._submit(entry)

    def _submit(self, entry: Entry) -> None:
        assert entry.slot is not None
        environment, cores = self._slots[entry.slot]
        job = Job(entry.run.command, entry.base, entry.run.digest, environment, cores)
        jobs.result_of(entry.base).unlink(missing_ok=True)
        entry.number = self._executor.submit(job, entry.run.name)
        entry.attempts += 1
        entry.phase, entry.note = "queued", ""
        content = {"number": entry.number, "digest": entry.run.digest}
        write_atomically(_submitted(entry), json.dumps(content) + "\n")


def may_try_again(status: int | None) -> bool:
    """Would the same command do better? Not if it was wrong, or training failed.

    Args:
      status: of ``rfm run``; negative: killed by that signal; None: nobody knows.
    """
    return status is None or status < 0 or status == LOST or status in _STOPPED or status > 128


def _ending(status: int | None) -> str:
    if status is None:
        return "the job vanished"
    if status in _STOPPED:
        return "preempted"
    return "a process was lost" if status == LOST else f"killed by signal {abs(status) % 128}"


def _submitted(entry: Entry) -> Path:
    return entry.base.with_name(f"{entry.base.name}.job.json")
