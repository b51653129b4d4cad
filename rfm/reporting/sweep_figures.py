"""RLoss of all runs of a sweep against each measure: the main figure, Figs. D and E.

A point for each run, a colour and marker for each method. Titles have the coefficients, with
bootstrap intervals. A figure without data is None.
"""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rfm.reporting import style
from rfm.reporting.labels import beside_points
from rfm.reporting.sweep_look import dots, legend, legend_height, scale
from rfm.reporting.sweep_points import AVERAGE, RLOSS, WORST, Measured, Points
from rfm.reporting.sweep_rows import Row


@style.styled()
def main_scatter(found: Mapping[Measured, Points], rows: Sequence[Row]) -> Figure | None:
    """Test RLoss of each run over its average- and worst-case flatness of RLoss."""
    chosen = {measure: found[measure] for measure in (AVERAGE, WORST) if measure in found}
    return _scatter(chosen, rows, width=5.1, height=4.4)


@style.styled()
def other_measures(found: Mapping[Measured, Points], rows: Sequence[Row]) -> Figure | None:
    """Test RLoss over all other measures (Fig. D, Table A)."""
    chosen = {m: of for m, of in found.items() if m.radius is None and m not in (AVERAGE, WORST)}
    return _scatter(chosen, rows, width=3.6, height=3.2)


@style.styled()
def radii(found: Mapping[Measured, Points], rows: Sequence[Row]) -> Figure | None:
    """Test RLoss over flatness at each radius, average case above worst case (Fig. E)."""
    cases = [
        {m: of for m, of in found.items() if m.radius is not None and m.record == case.record}
        for case in (AVERAGE, WORST)
    ]
    cases = [case for case in cases if case]
    if not cases:
        return None
    across = max(map(len, cases))
    together = {measure: of for case in cases for measure, of in case.items()}
    places = [across * line + n for line, case in enumerate(cases) for n in range(len(case))]
    return _scatter(together, rows, width=3.0, height=3.0, places=places, across=across)


def _scatter(
    found: Mapping[Measured, Points],
    rows: Sequence[Row],
    *,
    width: float,
    height: float,
    places: Sequence[int] | None = None,
    across: int | None = None,
) -> Figure | None:
    """A panel for each measure; `places` are where they are in a grid, row by row."""
    if not found:
        return None
    places = range(len(found)) if places is None else places
    across = min(3, len(found)) if across is None else across
    down = math.ceil((max(places) + 1) / across)
    shown = [row for row in rows if any(row.number in of.numbers for of in found.values())]
    size = max(across * width, 6.4), down * height + legend_height(shown)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for place, axes in enumerate(grid):
        if place not in places:
            axes.remove()
    small = width < 5
    panels = [grid[place] for place in places]
    for axes, (measure, of) in zip(panels, found.items(), strict=True):
        _draw(axes, measure, of, size=16 if small else 34)
        if _leads_row(axes):
            axes.set_ylabel(RLOSS.title)
    legend(figure, shown)
    if not small:
        figure.draw_without_rendering()  # the layout, before labels are placed by it
        for axes, of in zip(panels, found.values(), strict=True):
            beside_points(axes, of.x, of.y, of.numbers)
    return figure


def _leads_row(axes: Axes) -> bool:
    """Is it the first panel of its row?"""
    spec = axes.get_subplotspec()
    return spec is None or spec.is_first_col()


def _draw(axes: Axes, measure: Measured, of: Points, size: float) -> None:
    coefficients = of.correlation
    lines = [] if coefficients is None else [str(coefficients)]
    if of.left_out:
        lines.append(f"{of.left_out} measured otherwise and left out")
    axes.set_title("\n".join(lines), fontweight="normal", fontsize=9.5 if size > 20 else 8)
    scale(axes, "x", of.x)
    scale(axes, "y", of.y)
    for number in dict.fromkeys(of.numbers):
        mine = [place for place, other in enumerate(of.numbers) if other == number]
        dots(axes, [of.x[n] for n in mine], [of.y[n] for n in mine], number, size=size)
    axes.margins(0.08)
    axes.set_xlabel(measure.title, fontsize=9.5 if size > 20 else 8.5)
