"""Snapshots of a sweep: flatness and correctness through training (Figs. C, G and I).

A sweep is read without the records of its snapshots, which are most of all files. Figures
through training need those of one run of each method only: `read` takes the first that has any.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rfm.errors import UserError
from rfm.reporting import style
from rfm.reporting.protocol import radius
from rfm.reporting.records import Record, latest, read_record
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_look import fixed_multiples
from rfm.reporting.sweep_rows import Row

_MEASURES = ("evaluation-", "flatness-", "curvature-")
_KINDS = {
    "rloss": ("all", "-"),
    "rloss_correct": ("right without attack", (0, (1, 1.2))),
    "rloss_incorrect": ("wrong without attack", (0, (5, 2))),
}


@dataclasses.dataclass(frozen=True)
class Course:
    """Snapshots of one run of a method.

    Attributes:
      row: the method.
      member: the run.
      records: of its snapshots.
      problems: a line for each that cannot be read.
    """

    row: Row
    member: Member
    records: tuple[Record, ...]
    problems: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.row.number}  {self.row.name}"


def read(folder: str | os.PathLike[str], rows: Sequence[Row]) -> tuple[Course, ...]:
    """Of each method the run of the lowest seed that has snapshots."""
    found = []
    for row in rows:
        for member in sorted(row.members, key=lambda m: (m.seed is None, m.seed or 0, m.path)):
            course = _read(Path(folder), row, member)
            if course.records or course.problems:
                found.append(course)
                break
    return tuple(found)


def _read(folder: Path, row: Row, member: Member) -> Course:
    records, problems = [], []
    workdir = folder / member.path
    for path in sorted(workdir.glob("records/*/*-snapshot.json")):
        if not path.name.startswith(_MEASURES):
            continue
        try:
            records.append(read_record(path))
        except UserError as error:
            problems.append(str(error).removeprefix(f"{workdir}{os.sep}"))
    return Course(row, member, tuple(records), tuple(problems))


def most_radii(courses: Sequence[Course]) -> Course | None:
    """The run whose flatness was measured at most radii through training (Fig. C)."""
    counts = [
        len({(r.name.split("-test")[0], radius(r)) for r in of.records if r.kind == "flatness"})
        - len({r.name.split("-test")[0] for r in of.records if r.kind == "flatness"})
        for of in courses
    ]
    return courses[counts.index(max(counts))] if counts and max(counts) > 0 else None


@style.styled()
def correctness(courses: Sequence[Course]) -> Figure | None:
    """RLoss of test examples that are right and wrong without attack, over epochs (Fig. G)."""
    found = {of.title: _curves(of.records) for of in courses}
    found = {
        title: of
        for title, of in found.items()
        if len(of["rloss"]) > 1 and (of["rloss_correct"] or of["rloss_incorrect"])
    }
    if not found:
        return None
    figure, panels = fixed_multiples(len(found))
    for place, (axes, (title, of)) in enumerate(zip(panels, found.items(), strict=True)):
        _draw(axes, of)
        axes.set_title(title, fontsize=7.5, pad=4)
        style.epoch_axis(axes)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("")
        if place % 6 == 0:
            axes.set_ylabel("RLoss, test", fontsize=8)
    panels[0].set_ylim(bottom=0)
    height = figure.get_size_inches()[1]
    figure.text(0.5, 0.32 / height, "epoch", ha="center")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), borderaxespad=0.1)
    return figure


def _curves(records: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    evaluated = [r for r in records if r.name == "evaluation-test"]
    curves: dict[str, list[tuple[float, float]]] = {key: [] for key in _KINDS}
    for record in sorted(evaluated, key=lambda record: record.step):
        for key, curve in curves.items():
            value = record.value(key).value
            if record.epoch is not None and value is not None:
                curve.append((record.epoch, value))
    return curves


def _draw(axes: Axes, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    for key, (label, dash) in _KINDS.items():
        if curves[key]:
            colour = style.series_colour("test", robust=key == "rloss")
            axes.plot(*zip(*curves[key], strict=True), color=colour, linestyle=dash,
                      linewidth=1.3, label=label)  # fmt: skip


@style.styled()
def correctness_at_the_end(rows: Sequence[Row]) -> Figure | None:
    """The same at the last checkpoint, a line for each method: dots are runs."""
    values = {
        row.number: {
            key: [
                value
                for member in row.members
                for record in latest(member.run.records)
                if record.name == "evaluation-test"
                and (value := record.value(key).value) is not None
            ]
            for key in _KINDS
        }
        for row in rows
    }
    shown = [
        row
        for row in rows
        if values[row.number]["rloss_correct"] or values[row.number]["rloss_incorrect"]
    ]
    if not shown:
        return None
    figure = Figure(figsize=(7.6, 1.3 + 0.19 * len(shown)), layout="constrained")
    axes = figure.subplots()
    looks = {
        "rloss_correct": ("o", style.colour("test")),
        "rloss": ("|", style.colour("ink")),
        "rloss_incorrect": ("D", style.colour("train")),
    }
    for key, (marker, colour) in looks.items():
        dots = [(v, -place) for place, row in enumerate(shown) for v in values[row.number][key]]
        x, y = [x for x, _ in dots], [y for _, y in dots]
        axes.scatter(x, y, s=26 if marker == "|" else 14, marker=marker, color=colour,
                     linewidth=1.2 if marker == "|" else 0.4, label=_KINDS[key][0])  # fmt: skip
    axes.set_yticks([-place for place in range(len(shown))],
                    [f"{row.number}  {row.name}" for row in shown], fontsize=8)  # fmt: skip
    axes.set_ylim(-len(shown) + 0.4, 0.6)
    axes.set_xlabel("RLoss, test (nats)")
    style.legend_below(figure)
    return figure
