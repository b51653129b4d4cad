"""Families of hyper-parameters joined by lines, and early stopping (Figs. J and D, right)."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rfm.reporting import style, sweep_families, sweep_settings
from rfm.reporting.labels import beside_points
from rfm.reporting.records import Record
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_look import (
    HUES,
    MARKERS,
    dots,
    hue,
    legend,
    legend_height,
    marker,
    room,
    scale,
)
from rfm.reporting.sweep_points import AVERAGE, RLOSS, WORST, Measured, Points
from rfm.reporting.sweep_rows import Row

Means = Mapping[int, tuple[float, float]]


def means(of: Points) -> dict[int, tuple[float, float]]:
    """Of each row, by its number, the mean over its runs of both measures."""
    found: dict[int, list[tuple[float, float]]] = {}
    for x, y, number in zip(of.x, of.y, of.numbers, strict=True):
        found.setdefault(number, []).append((x, y))
    return {
        number: (statistics.fmean(x for x, _ in of_row), statistics.fmean(y for _, y in of_row))
        for number, of_row in found.items()
    }


@style.styled()
def hyper_parameters(found: Mapping[Measured, Points], rows: Sequence[Row]) -> Figure | None:
    """Families in the order of their numbers, a line each; columns and rows of Fig. J.

    A point is a mean over seeds. The star is the baseline.
    """
    cases = {measure: means(found[measure]) for measure in (AVERAGE, WORST) if measure in found}
    every = [row for row in rows if any(row.number in of for of in cases.values())]
    columns = sweep_families.groups(every)
    if not columns:
        return None
    size = 3.1 * len(columns) + 0.4, 3.9 * len(cases)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(cases), len(columns), squeeze=False, sharex="row", sharey="row")
    values = list(cases.values())
    baseline = sweep_families.baseline(every)
    shown = [row for families in columns.values() for family in families.values() for row in family]
    shown += [baseline] if baseline is not None else []
    for line, (measure, of) in zip(grid, cases.items(), strict=True):
        there = [of[row.number] for row in shown if row.number in of]
        if there:
            scale(line[0], "x", [x for x, _ in there])
            scale(line[0], "y", [y for _, y in there])
        line[0].set_ylabel(RLOSS.title)
        for axes, (title, families) in zip(line, columns.items(), strict=True):
            if of is values[0]:
                axes.set_title(title, fontsize=9.5)
            axes.set_xlabel(measure.title, fontsize=8.5)
            _lines(axes, families, of, baseline)
            axes.margins(0.1)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize=7.5,
                        columnspacing=1.0)  # fmt: skip
    figure.draw_without_rendering()
    for line, of in zip(grid, cases.values(), strict=True):
        for axes, families in zip(line, columns.values(), strict=True):
            named = [row for family in families.values() for row in family if row.number in of]
            if named:
                x, y = zip(*(of[row.number] for row in named), strict=True)
                beside_points(axes, x, y, [_number(row) for row in named])
    return figure


def _lines(
    axes: Axes, families: Mapping[str, Sequence[Row]], of: Means, baseline: Row | None
) -> None:
    for place, (name, family) in enumerate(families.items()):
        there = [of[row.number] for row in family if row.number in of]
        if there:
            x, y = zip(*there, strict=True)
            axes.plot(x, y, color=HUES[place % len(HUES)], marker=MARKERS[place % len(MARKERS)],
                      linewidth=1.1, markersize=4.5, label=name)  # fmt: skip
    if baseline is not None and baseline.number in of:
        axes.plot(*of[baseline.number], linestyle="none", marker="*", markersize=10,
                  color=style.colour("ink"), label=baseline.name)  # fmt: skip


def _number(row: Row) -> str:
    """What tells a method from others of its family."""
    return row.name.removeprefix(sweep_families.family(row.name)[0]).lstrip("-") or row.name


@dataclasses.dataclass(frozen=True)
class Pair:
    """One run at its last and at its best checkpoint.

    Attributes:
      number: of its row.
      member: the run.
      final, best: flatness and test RLoss of each.
    """

    number: int
    member: Member
    final: tuple[float, float]
    best: tuple[float, float]


def pairs(rows: Sequence[Row], measure: Measured) -> tuple[Pair, ...]:
    """Runs measured alike at both checkpoints, RLoss and `measure`; others are left out."""
    return tuple(
        Pair(row.number, member, *ends)
        for row in rows
        for member in row.members
        if (ends := _ends(member, measure)) is not None
    )


def _ends(
    member: Member, measure: Measured
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    final, best = member.final, member.early_stopped
    if not final or not best or best[0].step == final[0].step:  # the last snapshot is the best one
        return None
    x, y = at_both(member, measure), at_both(member, RLOSS)
    return None if x is None or y is None else ((x[0], y[0]), (x[1], y[1]))


def at_both(member: Member, measure: Measured) -> tuple[float, float] | None:
    """A measure at the end and where early stopping stops; None if not measured alike at both."""
    final, best = measure.of(member.final), measure.of(member.early_stopped)
    if final is None or best is None or not alike(final[0], best[0]):
        return None
    return final[1], best[1]


def alike(first: Record, second: Record) -> bool:
    """Are two records of the same protocol, whatever their networks: checkpoints, rescaled ones?"""
    settings = [{"record": _protocol(record)} for record in (first, second)]
    return sweep_settings.agree(*settings)


_OF_NETWORK = ("checkpoint", "rescaled")


def _protocol(record: Record) -> dict[str, str]:
    fields = sweep_settings.of_record(record, None)
    return {name: text for name, text in fields.items() if name not in _OF_NETWORK}


@style.styled()
def early_stopping(rows: Sequence[Row]) -> Figure | None:
    """Arrows from the last to the best checkpoint of each run that has both (Fig. D, right)."""
    found = {measure: pairs(rows, measure) for measure in (AVERAGE, WORST)}
    found = {measure: of for measure, of in found.items() if of}
    if not found:
        return None
    numbers = {pair.number for of in found.values() for pair in of}
    shown = [row for row in rows if row.number in numbers]
    size = max(6.4, 5.1 * len(found)), 4.2 + room(shown) + legend_height(shown)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (measure, of) in zip(panels, found.items(), strict=True):
        ends = [end for pair in of for end in (pair.final, pair.best)]
        scale(axes, "x", [x for x, _ in ends])
        scale(axes, "y", [y for _, y in ends])
        for pair in of:
            dots(axes, [pair.final[0]], [pair.final[1]], pair.number)
            axes.scatter([pair.best[0]], [pair.best[1]], s=24, zorder=2, linewidth=1.0,
                         marker=marker(pair.number), facecolor=style.colour("paper"),
                         edgecolor=hue(pair.number))  # fmt: skip
            axes.annotate("", pair.best, pair.final, zorder=1,
                          arrowprops={"arrowstyle": "->", "color": hue(pair.number),
                                      "linewidth": 0.7, "shrinkA": 3, "shrinkB": 3})  # fmt: skip
        axes.set_title(_in_words(of), fontweight="normal", fontsize=9.5)
        axes.margins(0.08)
        axes.set_xlabel(measure.title)
    panels[0].set_ylabel(RLOSS.title)
    legend(figure, shown)
    figure.draw_without_rendering()
    for axes, of in zip(panels, found.values(), strict=True):
        x, y = zip(*(pair.final for pair in of), strict=True)
        beside_points(axes, x, y, [pair.number for pair in of])
    return figure


def _in_words(of: Sequence[Pair]) -> str:
    both = sum(p.best[0] < p.final[0] and p.best[1] < p.final[1] for p in of)
    return f"flatter and of lower RLoss when stopped early: {both} of {len(of)} runs"
