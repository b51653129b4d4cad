"""Figures over all runs of a sweep: a point or a line for each run, a look for each method.

Methods are called by their numbers in the table, which stand at the points and at the ends
of the lines; beside that a method has a colour and a marker or dash of its own, for up to 70
of them. A figure without data is None.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import matplotlib.lines
import numpy as np
from matplotlib.figure import Figure

from rfm.reporting import style, sweep_settings
from rfm.reporting.labels import at_ends, beside_points
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_rows import Row

HUES = ("#3b7fc4", "#e0701b", "#2f9e57", "#d6455d", "#8f63c9",
        "#9a6b4b", "#1f9fae", "#d267b0", "#8f9422", "#7d8790")  # fmt: skip
"""Of methods: readable on white and on black."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)), (0, (2, 1)),
          (0, (7, 1.5, 1, 1.5, 1, 1.5)))  # fmt: skip

_LOG_FROM = 30.0  # largest by smallest value from which an axis is logarithmic
_MANY = 40  # lines from which they are thin
_CASES = {
    "average": "Average-case flatness of RLoss",
    "worst": "Worst-case flatness of RLoss",
}


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Of two measures over runs: Pearson's r, Spearman's rank correlation, and of how many."""

    pearson: float
    spearman: float
    runs: int

    def __str__(self) -> str:
        text = f"Pearson {self.pearson:.2f}, Spearman {self.spearman:.2f}, n = {self.runs}"
        return text.replace("-", "\N{MINUS SIGN}")


def correlation(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """None of fewer than three runs, or where one measure is constant."""
    from scipy import stats  # half a second, which most commands need not wait for

    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant input
        found = Correlation(stats.pearsonr(x, y)[0], stats.spearmanr(x, y)[0], len(x))
    return found if np.isfinite([found.pearson, found.spearman]).all() else None


@dataclasses.dataclass(frozen=True)
class Points:
    """Two measures of the runs that have both, measured alike.

    Attributes:
      x, y: of each run.
      numbers: the row of each.
      left_out: how many runs have both by another protocol.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    numbers: tuple[int, ...]
    left_out: int = 0


def points(rows: Sequence[Row], x: tuple[str, str], y: tuple[str, str]) -> Points:
    """The runs that have two values, each the name of a record and of its value.

    Runs whose protocols of these records differ cannot be compared: of the largest set of
    runs that agree, all are taken, and of the others none.
    """
    alike: list[tuple[sweep_settings.Settings, list[tuple[float, float, int]]]] = []
    for row in rows:
        for member in row.members:
            records = {record.name: record for record in member.records}
            if not {x[0], y[0]} <= records.keys():
                continue
            values = [records[name].value(key).value for name, key in (x, y)]
            if values[0] is None or values[1] is None:
                continue
            every = sweep_settings.settings(member)
            settings = {name: every[name] for name in (x[0], y[0])}
            fitting = (found for other, found in alike if sweep_settings.agree(settings, other))
            if (group := next(fitting, None)) is None:
                group = []
                alike.append((settings, group))
            group.append((values[0], values[1], row.number))
    if not alike:
        return Points((), (), ())
    largest = max((group for _, group in alike), key=len)
    of_x, of_y, numbers = zip(*largest, strict=True)
    return Points(of_x, of_y, numbers, sum(len(group) for _, group in alike) - len(largest))


@style.styled()
def loss_against_flatness(rows: Sequence[Row]) -> Figure | None:
    """Test RLoss of each run over its average- and worst-case flatness of RLoss."""
    rloss = ("evaluation-test", "rloss")
    found = {
        title: points(rows, (f"flatness-{case}-rloss-test", "flatness"), rloss)
        for case, title in _CASES.items()
    }
    found = {title: of for title, of in found.items() if len(of.x) > 1}
    if not found:
        return None
    shown = [row for row in rows if any(row.number in of.numbers for of in found.values())]
    figure = _figure(len(found), 4.4 + min(2.0, 0.03 * len(shown)), shown)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (title, of) in zip(panels, found.items(), strict=True):
        of_runs = correlation(of.x, of.y)
        subtitle = "" if of_runs is None else str(of_runs)
        if of.left_out:
            subtitle += f"\n{of.left_out} measured otherwise and left out"
        axes.set_title(subtitle.strip(), fontweight="normal", fontsize=9.5)
        _scale(axes.set_xscale, of.x)
        _scale(axes.set_yscale, of.y)
        for x, y, number in zip(of.x, of.y, of.numbers, strict=True):
            axes.scatter([x], [y], s=34, linewidth=0.5, edgecolor=style.colour("paper"),
                         color=hue(number), marker=marker(number), zorder=2)  # fmt: skip
        axes.margins(0.08)
        axes.set_xlabel(title)
        axes.set_ylabel("RLoss, test")
    _legend(figure, shown, lambda row: {"marker": marker(row.number), "linestyle": "none"})
    figure.draw_without_rendering()  # the layout, before labels are placed by it
    for axes, of in zip(panels, found.values(), strict=True):
        beside_points(axes, of.x, of.y, of.numbers)
    return figure


@style.styled()
def training_curves(rows: Sequence[Row]) -> Figure | None:
    """RErr on the held-out examples over epochs, a line for each run."""
    curves = [(row, member) for row in rows for member in row.members]
    lines = [(row, _validation(member)) for row, member in curves]
    lines = [(row, line) for row, line in lines if line]
    if not any(len(line) > 1 for _, line in lines):
        return None
    shown = [row for row in rows if any(row is of for of, _ in lines)]
    figure = _figure(1, max(4.0, 0.1 * len(shown) + 1), shown)
    axes = figure.subplots()
    for row, line in lines:
        epochs, errors = zip(*line, strict=True)
        axes.plot(epochs, errors, color=hue(row.number), linestyle=dash(row.number),
                  linewidth=1.3 if len(lines) < _MANY else 0.8, alpha=0.9,
                  marker="o" if len(line) == 1 else "")  # fmt: skip
    axes.set_ylabel("RErr, held-out test (%)")
    style.epoch_axis(axes)
    _legend(figure, shown, lambda row: {"linestyle": dash(row.number)})
    figure.draw_without_rendering()
    last = {row.number: [line[-1] for of, line in lines if of is row] for row in shown}
    at_ends(
        axes,
        {number: max(epoch for epoch, _ in ends) for number, ends in last.items()},
        {number: float(np.mean([error for _, error in ends])) for number, ends in last.items()},
        {number: hue(number) for number in last},
    )
    return figure


def hue(number: int) -> str:
    """The colour of a method."""
    return HUES[(number - 1) % len(HUES)]


def marker(number: int) -> str:
    """The marker of a method; with its colour its own among 70."""
    return MARKERS[(number - 1) // len(HUES) % len(MARKERS)]


def dash(number: int) -> str | tuple[float, tuple[float, ...]]:
    """The dashes of a method; with its colour its own among 70."""
    return DASHES[(number - 1) // len(HUES) % len(DASHES)]


def _validation(member: Member) -> list[tuple[float, float]]:
    lines = member.run.metrics.validation
    return [(line.epoch, 100 * line.rerr) for line in lines if line.rerr is not None]


def _scale(set_scale: Callable[[str], None], values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) > _LOG_FROM * min(values):
        set_scale("log")


def _columns(shown: Sequence[Row]) -> int:
    return max(1, min(5, int(150 / (8 + max(len(row.name) for row in shown)))))


def _figure(count: int, height: float, shown: Sequence[Row]) -> Figure:
    """With room for the legend below."""
    lines = -(-len(shown) // _columns(shown))
    return Figure(figsize=(10.2 if count > 1 else 8.4, height + 0.17 * lines), layout="constrained")


def _legend(figure: Figure, shown: Sequence[Row], look: Callable[[Row], dict]) -> None:
    handles = [
        matplotlib.lines.Line2D([], [], color=hue(row.number), label=f"{row.number}  {row.name}",
                                **look(row))
        for row in shown
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=_columns(shown),
                  fontsize=8, columnspacing=1.2, handlelength=2.0, labelspacing=0.35)  # fmt: skip
