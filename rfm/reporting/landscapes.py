"""Landscapes: RLoss and Loss along directions in weight space, of one or several runs.

One panel for each kind of direction. Of random directions the mean is drawn and the range in
between as a band, of adversarial ones the maximum (Section C of the supplement). Each run has
a colour; RLoss is solid, Loss dashed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rfm.files import write_atomically
from rfm.reporting import style
from rfm.reporting.records import LandscapeData, Record, latest
from rfm.reporting.run import Run

_KINDS = {
    "random": "random directions (mean)",
    "adversarial": "adversarial directions (maximum)",
    "hessian": "Hessian's first eigenvector",
}
_HIGHEST = 10.0  # nats: four times that of guessing among ten classes; beyond, curves leave
_COLOURS = ("test", "train", "mark", "ink", "muted", "test-clean", "train-clean")


def write(runs: Sequence[Run], places: Sequence[Path], folder: Path) -> Iterator[Path]:
    """Writes ``landscape.png`` and ``.svg``, and of surfaces ``surface.png`` and ``.svg``."""
    names = _names(runs, places)
    for name, figure in (("landscape", lines(runs, names)), ("surface", surfaces(runs, names))):
        if figure is not None:
            for suffix, content in (("png", style.png(figure)), ("svg", style.svg(figure))):
                path = folder / f"{name}.{suffix}"
                write_atomically(path, content)
                yield path


def _names(runs: Sequence[Run], places: Sequence[Path]) -> list[str]:
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(place) for place in places]


@style.styled()
def lines(runs: Sequence[Run], names: Sequence[str]) -> Figure | None:
    """Losses along directions; None if no run has any."""
    kinds = [
        kind for kind in _KINDS if any(find(run.records, kind, "rloss", "loss") for run in runs)
    ]
    if not kinds:
        return None
    figure = Figure(figsize=(3.6 * len(kinds) + 0.6, 3.8), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for number, (run, name) in enumerate(zip(runs, names, strict=True)):
            colour = style.colour(_COLOURS[number % len(_COLOURS)])
            for loss, data in find(run.records, kind, "rloss", "loss").items():
                _draw(axes, data, kind, loss, colour, name if len(runs) > 1 else "")
        axes.set_title(_KINDS[kind])
        if axes.get_ylim()[1] > _HIGHEST:
            lowest = min(float(np.nanmin(line.get_ydata())) for line in axes.lines)
            axes.set_ylim(lowest - 0.05 * (_HIGHEST - lowest), _HIGHEST)
        axes.set_xlabel(_x_label([find(run.records, kind, "rloss", "loss") for run in runs]))
    panels[0].set_ylabel("cross-entropy (nats)")
    style.legend_below(figure)
    return figure


@style.styled()
def surfaces(runs: Sequence[Run], names: Sequence[str]) -> Figure | None:
    """RLoss over the plane of two random directions, a panel for each run; None without."""
    found = [
        (name, data)
        for run, name in zip(runs, names, strict=True)
        for data in list(find(run.records, "surface", "rloss", "loss").values())[:1]
    ]
    if not found:
        return None
    figure = Figure(figsize=(4.6 * len(found) + 1.6, 4.4), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    values = np.concatenate([data.losses[0].ravel() for _, data in found])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [0, 0.95])
    levels = np.linspace(low, max(high, low + 1e-6), 15)
    for axes, (name, data) in zip(panels, found, strict=True):
        drawn = axes.contourf(
            data.steps, data.steps, data.losses[0].T, levels=levels, extend="both", cmap="viridis"
        )
        axes.plot([0], [0], marker="+", color=style.colour("paper"), markersize=9)
        axes.set_title(name)
        axes.set_xlabel(f"first direction (length {data.lengths[0][0]:.3g})")
        axes.set_ylabel(f"second direction (length {data.lengths[0][1]:.3g})")
        axes.set_aspect("equal")
    figure.colorbar(drawn, ax=list(panels), label="cross-entropy (nats)")
    return figure


def find(records: Iterable[Record], kind: str, *losses: str) -> dict[str, LandscapeData]:
    """What there is of a kind, by loss in the order asked for; the latest checkpoint's.

    Relative to layers if that was measured, else to filters.
    """
    landscapes = [record for record in records if record.kind == "landscape"]
    by_name = {record.name: record.landscape for record in latest(landscapes)}
    prefix = "surface" if kind == "surface" else f"landscape-{kind}"
    found = {
        loss: by_name.get(f"{prefix}-{loss}-test") or by_name.get(f"{prefix}-{loss}-test-filter")
        for loss in losses
    }
    return {loss: data for loss, data in found.items() if data is not None}


def _draw(axes: Axes, data: LandscapeData, kind: str, loss: str, colour: str, name: str) -> None:
    robust, curves = loss == "rloss", data.losses
    middle = curves.max(0) if kind == "adversarial" else curves.mean(0)
    label = ", ".join(filter(None, (name, "RLoss" if robust else "Loss")))
    dash = "-" if robust else (0, (4, 2))
    axes.plot(data.steps, middle, color=colour, linestyle=dash, label=label)
    if len(curves) > 1:
        axes.fill_between(
            data.steps, curves.min(0), curves.max(0), color=colour, alpha=0.12, linewidth=0
        )


def _x_label(found: Sequence[Mapping[str, LandscapeData]]) -> str:
    """With the mean length of the directions of each run that has some."""
    lengths = [f"{np.mean(next(iter(by.values())).lengths):.3g}" for by in found if by]
    return f"step (1: length {', '.join(lengths)})"
