"""Times two sides of the same computation against each other.

A `Case` has two sides, say rfm and PyTorch. Each `Side` lives in a process of its own, so
that its peak memory is its own, and the parent lets them work in turns, one repetition
at a time while the other waits::

    A's first call, B's first call, A, B, A, B, A, B, ...

The first calls (compilation, warm-up) are reported apart. Whatever slows the machine down
for a while slows down both sides of a pair: the ratio of each pair A_i / B_i and their
spread say how far the ratio of the medians can be trusted.

A side names a function "module:function", which is called once in the child with the
side's settings, and returns a `Job`. Parent and child talk in lines of JSON::

    >>> side = Side("benchmarks.some_module:some_function", {"width": 16})
    >>> row = measure(Case("a name", "step", {"rfm": side, "torch": other}), repeats=5)
    >>> row["ratio"]["of_medians"]

The parent imports neither JAX nor PyTorch.
"""

import contextlib
import dataclasses
import importlib
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAUSE = 0.2  # seconds between repetitions: thread pools spin for a while before they sleep


@dataclasses.dataclass(frozen=True)
class Job:
    """What a side's function returns: work that can be repeated.

    Attributes:
      call: does the work once, waits until it is done, and returns a finite number that
        it computed (a loss, say), which is recorded: the two sides should agree about it.
      units: how many units of work (steps, say) one call does, which may be a part of one;
        times are divided by it.
      about: the device, versions and choices; strings, recorded as they are.
      device_peak: most device memory in use so far, bytes; None where there is no device
        memory apart from the process's own.
    """

    call: Callable[[], float]
    units: float = 1
    about: Mapping[str, str] = dataclasses.field(default_factory=dict)
    device_peak: Callable[[], int] | None = None


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
      target: "module:function" that returns a `Job`.
      settings: its keyword arguments, representable in JSON.
      environment: environment variables of its process, on top of the parent's.
      python: the interpreter; the two sides may have different ones.
    """

    target: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    python: str = sys.executable


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: two sides; ratios are the first over the second.

    Attributes:
      name: what is computed, complete with its sizes.
      unit: what a time is the time of ("step", "batch").
      sides: the two sides by name.
    """

    name: str
    unit: str
    sides: Mapping[str, Side]

    def __post_init__(self) -> None:
        if len(self.sides) != 2:
            raise ValueError(f"a case has two sides, got {list(self.sides)}")


def measure(
    case: Case, *, repeats: int, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Runs a case.

    Args:
      case: what to run.
      repeats: timed calls of each side, after its first call.
      say: is told about the progress.

    Returns:
      The row as JSON: the medians and spreads of `summarise`, and all raw repetitions.

    Raises:
      RuntimeError: a side's process died, or computed something that is not finite.
      ValueError: `repeats` is not positive.
    """
    if repeats < 1:
        raise ValueError(f"need at least one repetition, got {repeats}")
    others = busy()
    if others > 0.05:
        say(f"warning: others keep {others:.0%} of the cores busy: these are not quiet timings")
    with contextlib.ExitStack() as stack:
        workers: dict[str, _Worker] = {}
        for name, side in case.sides.items():
            say(f"{case.name}: starting {name}")
            workers[name] = stack.enter_context(_worker(name, side))
        first: dict[str, dict[str, Any]] = {}
        for name, worker in workers.items():
            say(f"{case.name}: first call of {name}")
            first[name] = worker.ask()
        calls: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for repeat in range(repeats):
            for name, worker in workers.items():
                say(f"{case.name}: {name} {repeat + 1}/{repeats}")
                calls[name].append(worker.ask())
    units = {name: worker.ready["units"] for name, worker in workers.items()}
    seconds = [[call["seconds"] / units[name] for call in calls[name]] for name in workers]
    return {
        "name": case.name,
        "unit": case.unit,
        "busy_before": others,
        "sides": {
            name: {
                "about": worker.ready["about"],
                "settings": dict(case.sides[name].settings),
                "environment": dict(case.sides[name].environment),
                "memory": worker.ready["memory"],
                "units_per_call": units[name],
                "first_call_seconds": first[name]["seconds"],  # all units of the call
                "started_bytes": worker.ready["bytes"],
                "first_call_bytes": first[name]["bytes"],  # with compilation
                "peak_bytes": calls[name][-1]["bytes"],
                **_of_side(calls[name], units[name]),
            }
            for name, worker in workers.items()
        },
        "ratio": ratio(*seconds),
    }


def in_turns(
    calls: Mapping[str, Callable[[], Any]], repeats: int, say: Callable[[str], None] = print
) -> dict[str, list[float]]:
    """Seconds of every call, in turns in this process; the first ones, which compile, apart.

    A call has to wait until its work is done.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            call()
            spent = time.perf_counter() - start
            say(f"{name}: {spent:.1f} s")
            if repeat:
                seconds[name].append(spent)
    return seconds


def ratio(first: list[float], second: list[float]) -> dict[str, Any]:
    """How much longer `first` takes: ratio of medians, and the ratios of the pairs."""
    pairs = [a / b for a, b in zip(first, second, strict=True)]
    return {
        "of_medians": statistics.median(first) / statistics.median(second),
        "pairs": pairs,
        "min": min(pairs),
        "max": max(pairs),
    }


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy(seconds: float = 1.0) -> float:
    """Share of all cores' time that is used while this process sleeps; 0 if unknown."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    before = [int(v) for v in path.read_text().split("\n")[0].split()[1:9]]
    time.sleep(seconds)
    after = [int(v) for v in path.read_text().split("\n")[0].split()[1:9]]
    spent = [b - a for a, b in zip(before, after, strict=True)]
    return 1 - (spent[3] + spent[4]) / max(sum(spent), 1)  # idle and waiting for disks


def _of_side(calls: list[dict[str, Any]], units: float) -> dict[str, Any]:
    seconds = [call["seconds"] / units for call in calls]
    return {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "seconds": seconds,
        "cpu_seconds": [call["cpu_seconds"] / units for call in calls],
        "values": [call["value"] for call in calls],
    }


class _Worker:
    """The parent's end of a child process."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self._name, self._process = name, process
        self.ready = self._read()

    def ask(self) -> dict[str, Any]:
        """Lets the child work once, while nobody else does."""
        assert self._process.stdin is not None
        time.sleep(PAUSE)
        try:
            self._process.stdin.write("call\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: reading says so
        answer = self._read()
        if not math.isfinite(answer["value"]):
            raise RuntimeError(f"{self._name} computed {answer['value']}")
        return answer

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise RuntimeError(f"{self._name} ended with status {status}; its messages are above")
        return json.loads(line)


@contextlib.contextmanager
def _worker(name: str, side: Side) -> Iterator[_Worker]:
    process = subprocess.Popen(
        [side.python, "-m", "benchmarks.harness", side.target, json.dumps(dict(side.settings))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **side.environment},
    )
    try:
        yield _Worker(name, process)
    finally:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _serve(target: str, settings: dict[str, Any]) -> None:
    """The child: builds the job, then does it once per line of input."""
    # Whatever libraries print goes to the error stream: output is for the parent alone.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    module, function = target.split(":")
    job: Job = getattr(importlib.import_module(module), function)(**settings)
    peak = job.device_peak or _peak_of_process
    memory = "device" if job.device_peak else "process"
    answer(units=job.units, about=dict(job.about), memory=memory, bytes=peak())
    for number, _ in enumerate(sys.stdin):
        if number == 1 and not job.device_peak:
            _forget_peak()
        cpu, start = time.process_time(), time.perf_counter()
        value = job.call()
        seconds = time.perf_counter() - start
        cpu_seconds = time.process_time() - cpu
        answer(seconds=seconds, cpu_seconds=cpu_seconds, value=float(value), bytes=peak())


def _peak_of_process() -> int:
    """Largest resident set of this process, since the start or `_forget_peak`, bytes."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _forget_peak() -> None:
    """After the first call: what compilation took is not what the work takes (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
