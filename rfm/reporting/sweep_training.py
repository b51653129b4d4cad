"""Training curves of all runs: small panels, a family of methods in each (Figs. H and K).

Each run is a line, each method of a panel a colour; the baseline is grey in every panel.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import matplotlib.lines
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rfm.reporting import style, sweep_families
from rfm.reporting.metrics import Metrics
from rfm.reporting.sweep_look import HUES, small_multiples
from rfm.reporting.sweep_rows import Row

Curve = list[tuple[float, float]]
"""Epochs and values."""

QUANTITIES = {"rloss": "RLoss", "rerr": "RErr (%)"}

_DOTTED = (0, (1, 1.2))
_HIGHEST = {"rloss": 10.0, "rerr": 100.0}


def held_out(metrics: Metrics, quantity: str) -> Curve:
    """RLoss, or RErr in percent, on the held-out test examples."""
    factor = 100 if quantity == "rerr" else 1
    values = ((line.epoch, getattr(line, quantity)) for line in metrics.validation)
    return [(epoch, factor * value) for epoch, value in values if value is not None]


def on_train(metrics: Metrics, quantity: str) -> Curve:
    """The same on the batches of training, a mean for each epoch."""
    factor, name = (100, "error") if quantity == "rerr" else (1, "loss")
    epochs: dict[int, list[tuple[float, float]]] = {}
    for line in metrics.train:
        if (value := getattr(line, name)) is not None:
            epochs.setdefault(int(-(-line.epoch // 1)), []).append((line.epoch, value))
    return [
        (of[-1][0], factor * statistics.fmean(value for _, value in of)) for of in epochs.values()
    ]


@style.styled()
def curves(rows: Sequence[Row], quantity: str) -> Figure | None:
    """RLoss or RErr of all runs over epochs: solid on held-out test, dotted on train.

    Args:
      rows: the methods.
      quantity: "rloss" or "rerr".
    """
    shown = [row for row in rows if any(len(held_out(m.run.metrics, quantity)) > 1
                                        for m in row.members)]  # fmt: skip
    if not shown:
        return None
    baseline = sweep_families.baseline(shown)
    panels = sweep_families.panels(shown)
    if baseline is not None and len(panels) > 1 and panels.get("Baseline") == [baseline]:
        del panels["Baseline"]  # it is in all others
    figure, every = small_multiples(len(panels), across=4, width=3.1, height=2.9)
    for place, (axes, (title, of_panel)) in enumerate(zip(every, panels.items(), strict=True)):
        if baseline is not None and baseline not in of_panel:
            _draw(axes, baseline, quantity, style.colour("muted"), 0.8)
        for number, row in enumerate(of_panel):
            _draw(axes, row, quantity, HUES[number % len(HUES)], 1.1)
        axes.set_title(title, fontsize=9.5)
        axes.legend(handles=_handles(of_panel), loc="upper center", bbox_to_anchor=(0.5, -0.2),
                    fontsize=7, ncols=2, columnspacing=1.0, handlelength=1.2,
                    labelspacing=0.3)  # fmt: skip
        style.epoch_axis(axes)
        axes.set_xlabel("epoch" if place >= len(panels) - 4 else "", fontsize=8)
        if place % 4 == 0:
            axes.set_ylabel(QUANTITIES[quantity])
    every[0].set_ylim(0, _top(shown, quantity))
    figure.legend(handles=_meanings(quantity, baseline if len(panels) > 1 else None),
                  loc="outside upper center", ncols=4, fontsize=8)  # fmt: skip
    return figure


def _meanings(quantity: str, baseline: Row | None) -> list[matplotlib.lines.Line2D]:
    """What lines of any colour are."""
    ink, muted = style.colour("ink"), style.colour("muted")
    looks: list[tuple[str, dict[str, Any]]] = [
        ("held-out test", {"color": ink}),
        ("training batches, attacked as in training", {"color": ink, "linestyle": _DOTTED}),
    ]
    if quantity == "rerr":
        looks.append(("early stopping", {"color": ink, "marker": "o", "linestyle": "none"}))
    if baseline is not None:
        looks.append((f"{baseline.number}  {baseline.name}", {"color": muted}))
    return [matplotlib.lines.Line2D([], [], label=label, **look) for label, look in looks]


def _draw(axes: Axes, row: Row, quantity: str, colour: str, width: float) -> None:
    for member in row.members:
        metrics = member.run.metrics
        if test := held_out(metrics, quantity):
            axes.plot(*zip(*test, strict=True), color=colour, linewidth=width, zorder=2)
        if train := on_train(metrics, quantity):
            axes.plot(*zip(*train, strict=True), color=colour, linewidth=0.8 * width, alpha=0.8,
                      linestyle=_DOTTED, zorder=1)  # fmt: skip
        stop = metrics.early_stopping()
        if quantity == "rerr" and stop is not None and stop.rerr is not None:
            axes.plot([stop.epoch], [100 * stop.rerr], marker="o", markersize=3.2, color=colour,
                      markeredgecolor=style.colour("paper"), markeredgewidth=0.4,
                      zorder=3)  # fmt: skip


def _top(rows: Sequence[Row], quantity: str) -> float:
    """The upper end of the axis; curves of runs that diverge leave it."""
    curves = [held_out(m.run.metrics, quantity) for row in rows for m in row.members]
    highest = 1.06 * max(value for curve in curves for _, value in curve)
    return min(highest, _HIGHEST[quantity])


def _handles(rows: Sequence[Row]) -> list[matplotlib.lines.Line2D]:
    return [
        matplotlib.lines.Line2D([], [], color=HUES[number % len(HUES)],
                                label=f"{row.number}  {row.name}")
        for number, row in enumerate(rows)
    ]  # fmt: skip
