"""How methods look in the figures of a sweep, and what those figures share.

Methods are called by their numbers in the table; beside that each has a colour and a marker
of its own, for up to 70 of them. In a panel of few methods the colours begin anew.
"""

import math
from collections.abc import Sequence
from typing import Literal

import matplotlib.lines
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rfm.reporting import style
from rfm.reporting.sweep_rows import Row

HUES = ("#3b7fc4", "#e0701b", "#2f9e57", "#d6455d", "#8f63c9",
        "#9a6b4b", "#1f9fae", "#d267b0", "#8f9422", "#7d8790")  # fmt: skip
"""Of methods: readable on white and on black."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_LOG_FROM = 30.0  # largest by smallest value from which an axis is logarithmic


def hue(number: int) -> str:
    """The colour of a method."""
    return HUES[(number - 1) % len(HUES)]


def marker(number: int) -> str:
    """The marker of a method; with its colour its own among 70."""
    return MARKERS[(number - 1) // len(HUES) % len(MARKERS)]


def is_wide(values: Sequence[float]) -> bool:
    """Do positive values span more than a factor of 30?"""
    return min(values) > 0 and max(values) > _LOG_FROM * min(values)


def scale(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """A logarithmic axis, in plain numbers, for values that span more than a factor of 30."""
    if is_wide(values):
        axes.set(**{f"{which}scale": "log"})
        axis = axes.xaxis if which == "x" else axes.yaxis
        many = max(values) > 100 * min(values)
        axis.set_major_locator(LogLocator(subs=(1,) if many else (1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def dots(
    axes: Axes, x: Sequence[float], y: Sequence[float], number: int, *, size: float = 34
) -> None:
    """The runs of a method."""
    axes.scatter(x, y, s=size, linewidth=0.5, edgecolor=style.colour("paper"),
                 color=hue(number), marker=marker(number), zorder=2)  # fmt: skip


def legend(figure: Figure, rows: Sequence[Row]) -> None:
    """Numbers and names of methods, below the panels."""
    handles = [
        matplotlib.lines.Line2D([], [], color=hue(row.number), marker=marker(row.number),
                                linestyle="none", label=f"{row.number}  {row.name}")
        for row in rows
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=columns(rows),
                  fontsize=8, columnspacing=1.2, handlelength=2.0, labelspacing=0.35)  # fmt: skip


def columns(rows: Sequence[Row]) -> int:
    """Of the legend."""
    return max(1, min(5, int(150 / (8 + max(len(row.name) for row in rows)))))


def legend_height(rows: Sequence[Row]) -> float:
    """Of the legend, in inches."""
    return 0.17 * math.ceil(len(rows) / columns(rows))


def small_multiples(
    count: int, *, across: int, width: float, height: float, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of small panels, `width` by `height` inches each, on the same axes."""
    across = min(across, count)
    down = math.ceil(count / across)
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(max(width * across, 4.0), height * down + 0.4), layout=layout)
    return figure, _panels(figure, down, across, count, share)


def fixed_multiples(
    count: int, *, width: float = 2.05, height: float = 1.95, right: float = 0.1
) -> tuple[Figure, list[Axes]]:
    """The same of many panels without legends, six in a row, in fixed places.

    A layout that looks for room takes many seconds for 70 panels. At the right of them is room
    of so many inches.
    """
    across = min(6, count)
    down = math.ceil(count / across)
    left, top, bottom, gap = 0.55, 0.3, 0.75, 0.5
    total = left + width * across + right, top + height * down + bottom - gap
    figure = Figure(figsize=total)
    figure.subplots_adjust(
        left=left / total[0], right=1 - (right + 0.15) / total[0],
        bottom=bottom / total[1], top=1 - top / total[1],
        wspace=0.15 / (width - 0.15), hspace=gap / (height - gap),
    )  # fmt: skip
    panels = _panels(figure, down, across, count, share=True)
    for axes in panels:
        axes.tick_params(labelsize=7.5)
    return figure, panels


def _panels(figure: Figure, down: int, across: int, count: int, share: bool) -> list[Axes]:
    every = list(figure.subplots(down, across, squeeze=False, sharex=share, sharey=share).ravel())
    for axes in every[count:]:
        axes.remove()
    for axes in every[:count]:
        axes.tick_params(labelbottom=True)
    return every[:count]
