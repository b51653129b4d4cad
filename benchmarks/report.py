"""Results of benchmarks: JSON files by device, a table on screen, tables in the README."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.harness import ROOT, cores

HERE = ROOT / "benchmarks"
README = HERE / "README.md"
RESULTS = HERE / "results"
BEGIN, END = "<!-- results: written by --render -->", "<!-- end of results -->"
COLUMNS = ("", "{0}", "{1}", "{0} / {1}", "first call", "peak memory")

Row = dict[str, Any]


def save(rows: list[Row], folder: Path = RESULTS) -> Path:
    """Adds rows to the file of their device, in place of older rows of the same name.

    Every row carries the environment it was measured in, since rows of one file may have
    been measured at different times.
    """
    environment = describe_environment()
    first = next(iter(rows[0]["sides"].values()))
    on_device = first["memory"] == "device"
    device = first["about"]["device"].split(",")[0] if on_device else environment["cpu"]
    path = folder / f"{slug(device, None if on_device else environment['cores'])}.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    new = [{**row, "environment": environment} for row in rows]
    names = {row["name"] for row in new}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"rows": [r for r in kept if r["name"] not in names] + new}, indent=1)
    # Lists of numbers on one line each: fewer lines to read in a diff.
    text = re.sub(r"\[[\d\s.,e+-]*\]", lambda found: " ".join(found[0].split()), text)
    path.write_text(text + "\n")
    return path


def describe_environment() -> dict[str, Any]:
    """The machine and the sources, not the sides: those describe themselves."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "git": _git(),
    }


def table(rows: list[Row]) -> Table:
    """For the terminal."""
    made = Table()
    for i, column in enumerate(_columns(rows)):
        made.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        made.add_row(*_cells(row))
    return made


def render(
    readme: Path = README, folder: Path = RESULTS, region: tuple[str, str] = (BEGIN, END)
) -> None:
    """Rewrites a marked region of the README from the results files."""
    parts = [_markdown(path) for path in sorted(folder.glob("*.json"))]
    replace_region(*region, parts, readme)


def render_records(
    folder: Path, region: tuple[str, str], markdown: Callable[[dict[str, Any]], str]
) -> None:
    """Rewrites a region of the README from a folder of JSON records, one part for each."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    replace_region(*region, [markdown(record) for record in records])


def replace_region(begin: str, end: str, parts: Sequence[str], readme: Path = README) -> None:
    """Puts `parts` between two lines of the README.

    Raises:
      ValueError: the README has no such region.
    """
    text = readme.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{readme} needs the lines {begin!r} and {end!r} once each")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    shown = list(parts) or ["No results yet.\n"]
    readme.write_text("\n".join([before + begin, "", *shown, end + after]))


def _markdown(path: Path) -> str:
    rows = json.loads(path.read_text())["rows"]
    lines = [f"### {path.stem}", "", *_describe(rows), ""]
    columns = _columns(rows)
    lines += ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join([*lines, ""])


def _describe(rows: list[Row]) -> list[str]:
    """What the rows have in common, once; more than one line if they differ."""
    lines = []
    for row in rows:
        environment = row["environment"]
        sides = "; ".join(
            f"{name}: {side['about']['device']}, {side['about']['versions']}"
            for name, side in row["sides"].items()
        )
        line = f"{environment['cpu']}, {environment['cores']} cores; {sides}; "
        line += f"revision {environment['git']}."
        if line not in lines:
            lines.append(line)
    return lines


def _columns(rows: list[Row]) -> list[str]:
    names = list(rows[0]["sides"])
    return [column.format(*names) for column in COLUMNS]


def _cells(row: Row) -> list[str]:
    first, second = row["sides"].values()
    ratio = row["ratio"]
    return [
        f"{row['name']} (s per {row['unit']})",
        *(f"{s['median']:.3g} ({s['min']:.3g} to {s['max']:.3g})" for s in (first, second)),
        f"{ratio['of_medians']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
        *(
            f"{first[key] / scale:.{digits}f} / {second[key] / scale:.{digits}f} {unit}"
            for key, scale, digits, unit in (
                ("first_call_seconds", 1, 0, "s"),
                ("peak_bytes", 2**30, 2, "GiB"),
            )
        ),
    ]


def slug(device: str, count: int | None = None) -> str:
    """A file name for a device."""
    name = re.sub(r"\((r|tm)\)|\bcpu\b|@.*", "", device.lower())
    words = re.findall(r"[a-z0-9.]+", name)
    return "-".join([*words, *([f"{count}-cores"] if count else [])])


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def _git() -> str | None:
    """The revision, marked if files differ from it; None outside of a repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", os.fspath(ROOT), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "rfm", "benchmarks", ":!benchmarks/results")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
