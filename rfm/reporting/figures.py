"""The curves and bars of a report, each a pure function of records and metrics.

A figure without data is None, never an empty frame. What was measured is drawn as it
is, without smoothing; a number that is missing leaves a gap. Colours and fonts, and the
way to a file, are in `rfm.reporting.style`::

    run = rfm.reporting.read_run("runs/at")
    figure = rfm.reporting.figures.training_curves(run.metrics)
    figure.savefig("training.pdf")
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from rfm.reporting import style
from rfm.reporting.metrics import Metrics
from rfm.reporting.records import Record, latest

MARKED = 40
"""Curves of more points than this are drawn without markers."""


def _numbers(values: Iterable[float | None]) -> Float[np.ndarray, " n"]:
    return np.array([np.nan if value is None else value for value in values], float)


def panels(rows: Sequence[int]) -> tuple[Figure, list[list[Axes]]]:
    """A figure with so many panels in each row."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(10.2, 3.8 if len(rows) == 1 else 3.3 * len(rows)), layout=layout)
    grid = figure.subplots(len(rows), max(rows), squeeze=False)
    for row, count in zip(grid, rows, strict=True):
        for axes in row[count:]:
            axes.remove()
    return figure, [list(row[:count]) for row, count in zip(grid, rows, strict=True)]


def has_data(axes: Iterable[Axes]) -> bool:
    """Is anything drawn on any of them?"""
    return any(one.has_data() for one in axes)


def curve(
    axes: Axes,
    epochs: Sequence[float],
    values: Iterable[float | None],
    errors: Iterable[float | None] | None = None,
    *,
    split: str,
    robust: bool,
    label: str,
) -> None:
    """One measure over epochs, in the colour and dash that it has everywhere."""
    numbers = _numbers(values)
    if not np.isfinite(numbers).any():
        return
    colour = style.series_colour(split, robust)
    if errors is not None:
        axes.errorbar(
            epochs,
            numbers,
            yerr=np.nan_to_num(_numbers(errors)),
            fmt="none",
            ecolor=colour,
            elinewidth=1.0,
        )
    axes.plot(
        epochs,
        numbers,
        color=colour,
        linestyle="-" if robust else (0, (4, 2)),
        linewidth=1.8 if len(numbers) <= MARKED else 1.1,
        marker="o" if len(numbers) <= MARKED else "",
        markeredgecolor=style.colour("paper"),
        markeredgewidth=0.6,
        label=label,
    )


def _mark_decisions(axes: Axes, metrics: Metrics, value: str, scale: float) -> None:
    """Where the learning rate was lowered, and where early stopping would stop."""
    for epoch in metrics.learning_rate_drops():
        axes.axvline(
            epoch,
            color=style.colour("muted"),
            linewidth=0.8,
            linestyle=(0, (1, 2)),
            label="learning rate lowered",
        )
    stop = metrics.early_stopping()
    if stop is not None and getattr(stop, value) is not None:
        axes.plot(
            [stop.epoch],
            [scale * getattr(stop, value)],
            marker="*",
            markersize=13,
            markeredgecolor=style.colour("paper"),
            color=style.colour("mark"),
            linestyle="none",
            zorder=5,
            label=f"early stopping, epoch {stop.epoch:g}",
        )


@style.styled()
def training_curves(metrics: Metrics) -> Figure | None:
    """RLoss and RErr over epochs: training batches and held-out test examples (Fig. K).

    Loss and Err on the held-out examples are lighter. The star is where early stopping
    would stop; thin vertical lines are where the learning rate was lowered.
    """
    train, validation = metrics.train, metrics.validation
    epochs = [line.epoch for line in validation]
    figure, ((losses, errors),) = panels([2])
    for axes, scale, on_train, robust, clean in (
        (losses, 1, "loss", "rloss", "loss"),
        (errors, 100, "error", "rerr", "err"),
    ):
        curve(
            axes,
            [line.epoch for line in train],
            scale * _numbers(getattr(line, on_train) for line in train),
            split="train",
            robust=True,
            label="train, under attack",
        )
        curve(
            axes,
            epochs,
            scale * _numbers(getattr(line, robust) for line in validation),
            split="test",
            robust=True,
            label="held-out test, under attack",
        )
        curve(
            axes,
            epochs,
            scale * _numbers(getattr(line, clean) for line in validation),
            split="test",
            robust=False,
            label="held-out test, clean",
        )
        _mark_decisions(axes, metrics, robust, scale)
        axes.set_ylim(bottom=0)
        style.epoch_axis(axes)
    losses.set_title("RLoss and Loss")
    losses.set_ylabel("cross-entropy (nats)")
    errors.set_title("RErr and Err")
    errors.set_ylabel("error (%)")
    style.legend_below(figure)
    return figure if has_data(figure.axes) else None


@style.styled()
def loss_by_correctness(records: Iterable[Record]) -> Figure | None:
    """RLoss of the examples that are right and wrong without an attack (Fig. G)."""
    keys = ("rloss", "rloss_correct", "rloss_incorrect")
    names = ("all examples", "correct\nwithout attack", "incorrect\nwithout attack")
    evaluations = [
        record
        for record in latest(records)
        if record.kind == "evaluation"
        and any(record.value(key).value is not None for key in keys[1:])
    ]
    if not evaluations:
        return None
    evaluations.sort(key=lambda record: record.split != "test")
    figure = Figure(figsize=(6.2, 3.5), layout="constrained")
    axes = figure.subplots()
    width = 0.7 / max(2, len(evaluations))
    for position, record in enumerate(evaluations):
        places = np.arange(len(keys)) + (position - (len(evaluations) - 1) / 2) * width
        values = [record.value(key) for key in keys]
        heights = _numbers(value.value for value in values)
        bars = axes.bar(
            places,
            heights,
            0.92 * width,
            yerr=np.nan_to_num(_numbers(value.standard_error for value in values)),
            color=style.series_colour(record.split, robust=True),
            error_kw={"ecolor": style.colour("ink"), "elinewidth": 1.0},
            label=record.split,
        )
        labels = [
            ""
            if value.value is None
            else f"{value.value:.2f}" + (f"\nn = {value.examples:,}" if value.examples else "")
            for value in values
        ]
        axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.grid(False, axis="x")
    axes.set_ylabel("RLoss (nats)")
    axes.margins(y=0.18)
    style.legend_below(figure)
    return figure
