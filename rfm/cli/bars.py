"""Progress on the terminal: bars where there is one, lines in a log."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 10.0


class Bars:
    """A `rfm.progress.Progress` that draws; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Bars":
        self._progress.__enter__()
        # Something moves from the first second on, also while it compiles.
        self._starting = self._progress.add_task("starting", total=None, values="compiling")
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.update(self._starting, visible=False)
        self._progress.__exit__(*error)

    def __call__(self, task: str, done: int, total: int, fields: Mapping[str, float]) -> None:
        """Shows that `done` of `total` of `task` are done."""
        values = _values(fields) if done else "compiling"
        if not self._console.is_terminal:
            self._line(task, done, total, values)
            return
        if task not in self._tasks:
            self._progress.update(self._starting, visible=False)
            self._tasks[task] = self._progress.add_task(task, total=total, values=values)
            # Work done before, by the run that is resumed, says nothing about speed.
            self._progress.update(self._tasks[task], completed=done)
            self._progress.reset(self._tasks[task], completed=done, values=values)
        self._progress.update(self._tasks[task], completed=done, values=values)

    def _line(self, task: str, done: int, total: int, values: str) -> None:
        now = time.monotonic()
        if done == total or now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._console.print(
                f"{task}: {done}/{total} {values}".rstrip(),
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _values(fields: Mapping[str, float]) -> str:
    parts = []
    if "epoch" in fields:
        parts.append(f"epoch {fields['epoch']:.1f}")
    if "loss" in fields:
        parts.append(f"RLoss {fields['loss']:.3f}")
    if "error" in fields:
        parts.append(f"RErr {fields['error']:.1%}")
    if "robust_accuracy" in fields:
        parts.append(f"robust accuracy {fields['robust_accuracy']:.1%}")
    return "  ".join(parts)
