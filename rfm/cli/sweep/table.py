"""A sweep as people see it: a live table on a terminal, a line for each change in a log."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rfm.cli.sweep.conductor import Entry

_ORDER = ("failed", "running", "queued", "waiting", "done")
_STYLES = {"failed": "red", "running": "bold", "done": "green", "waiting": "dim"}
_TAIL = 4096  # bytes of a metrics file that hold its last lines
_FRAME = 8  # lines of a terminal that are not rows


class SweepTable:
    """Shows entries; use it as a context manager."""

    def __init__(self, console: Console, entries: Sequence[Entry]) -> None:
        self._console, self._entries = console, entries
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "SweepTable":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, changed: Sequence[Entry]) -> None:
        """What has become of `changed`."""
        if self._console.is_terminal:
            self._live.update(self.render(self._console.height - _FRAME), refresh=True)
            return
        for entry in changed:
            words = [f"{entry.run.name}: {entry.phase}", _where(entry), entry.note]
            line = "  ".join(word for word in words if word)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def render(self, rows: int) -> Group:
        """The table of at most `rows` runs, those that matter most first, and a summary."""
        table = Table(box=rich.box.SIMPLE_HEAD)
        for title in ("run", "", "progress", "job", "note"):
            table.add_column(title, overflow="fold" if title == "note" else "ellipsis")
        ordered = sorted(self._entries, key=lambda entry: _ORDER.index(entry.phase))
        for entry in ordered[: max(rows, 1)]:
            cells = (entry.run.name, entry.phase, progress(entry), entry.number or "", entry.note)
            table.add_row(*map(Text, cells), style=_STYLES.get(entry.phase))
        hidden = len(ordered) - max(rows, 1)
        more = [Text(f"and {hidden} more", style="dim")] if hidden > 0 else []
        return Group(table, *more, Text(summary(self._entries)))


def summary(entries: Sequence[Entry]) -> str:
    """How many runs are where: "3 done, 1 failed"."""
    counts = Counter(entry.phase for entry in entries)
    return ", ".join(f"{counts[phase]} {phase}" for phase in reversed(_ORDER) if counts[phase])


def progress(entry: Entry) -> str:
    """How far a run is, or how long it took."""
    if entry.phase == "done" and entry.seconds is not None:
        minutes, seconds = divmod(round(entry.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"
    if entry.phase != "running":
        return ""
    epoch = _epoch(entry.run.workdir / "metrics.jsonl")
    if epoch >= entry.run.epochs:
        return "measuring"
    return f"epoch {epoch:.3g} of {entry.run.epochs}"


def _epoch(path: Path) -> float:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _TAIL, 0))
            return float(json.loads(file.read().splitlines()[-1])["epoch"])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return 0.0  # not yet, or a line that is just being written


def _where(entry: Entry) -> str:
    if entry.phase == "done":
        return progress(entry)
    return f"job {entry.number}" if entry.phase in ("queued", "running") and entry.number else ""
