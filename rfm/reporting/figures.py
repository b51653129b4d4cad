"""The curves and bars of a report, each a pure function of records and metrics.

A figure without data is None, never an empty frame. What was measured is drawn as it
is, without smoothing; a number that is missing leaves a gap. Colours and fonts, and the
way to a file, are in `rfm.reporting.style`.

    >>> run = rfm.reporting.read_run("runs/at")
    >>> figure = rfm.reporting.figures.training_curves(run.metrics)
    >>> figure.savefig("training.pdf")
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from rfm.reporting import style
from rfm.reporting.metrics import Metrics
from rfm.reporting.protocol import radius
from rfm.reporting.records import Record, latest

MARKED = 40
"""Curves of more points than this are drawn without markers."""


def _numbers(values: Iterable[float | None]) -> Float[np.ndarray, " n"]:
    return np.array([np.nan if value is None else value for value in values], float)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    height = 3.8 if count < 3 else 3.5
    layout = ConstrainedLayoutEngine(w_pad=0.12)
    figure = Figure(figsize=(10.2, height), layout=layout)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _has_data(panels: Iterable[Axes]) -> bool:
    return any(axes.has_data() for axes in panels)


def _curve(
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
    figure, (losses, errors) = _panels(2)
    for axes, scale, on_train, robust, clean in (
        (losses, 1, "loss", "rloss", "loss"),
        (errors, 100, "error", "rerr", "err"),
    ):
        _curve(
            axes,
            [line.epoch for line in train],
            scale * _numbers(getattr(line, on_train) for line in train),
            split="train",
            robust=True,
            label="train, under attack",
        )
        _curve(
            axes,
            epochs,
            scale * _numbers(getattr(line, robust) for line in validation),
            split="test",
            robust=True,
            label="held-out test, under attack",
        )
        _curve(
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
    return figure if _has_data(figure.axes) else None


def _named(records: Iterable[Record], name: str) -> list[Record]:
    return sorted(
        (record for record in records if record.name == name and record.epoch is not None),
        key=lambda record: record.step,
    )


def _record_curve(axes: Axes, records: Sequence[Record], value: str, loss: str) -> None:
    if not records:
        return
    values = [record.value(value) for record in records]
    split = records[0].split
    _curve(
        axes,
        [record.epoch for record in records if record.epoch is not None],
        [value.value for value in values],
        [value.standard_error for value in values],
        split=split,
        robust=loss == "rloss",
        label=f"{'RLoss' if loss == 'rloss' else 'Loss'}, {split}",
    )


def _loss_at_snapshots(
    axes: Axes, records: Sequence[Record], metrics: Metrics, steps: set[int]
) -> None:
    """RLoss and Loss by the snapshots' own evaluations, else by validation."""
    evaluated = False
    for split in ("test", "train"):
        evaluations = _named(records, f"evaluation-{split}")
        for loss in ("rloss", "loss"):
            _record_curve(axes, evaluations, loss, loss)
        evaluated |= bool(evaluations)
    axes.set_title("RLoss and Loss")
    if evaluated:
        return
    axes.set_title("RLoss and Loss, held-out test")
    lines = [line for line in metrics.validation if line.step in steps]
    for robust, values in (
        (True, [line.rloss for line in lines]),
        (False, [line.loss for line in lines]),
    ):
        _curve(
            axes,
            [line.epoch for line in lines],
            values,
            split="test",
            robust=robust,
            label="RLoss, test" if robust else "Loss, test",
        )


@style.styled()
def flatness_through_training(records: Iterable[Record], metrics: Metrics) -> Figure | None:
    """Average- and worst-case flatness of the snapshots beside their RLoss and lambda_max.

    Fig. C.

    Error bars are one standard error. Robust overfitting shows as test RLoss that rises
    together with flatness.
    """
    snapshots = [record for record in records if record.snapshot]
    flatness = [record for record in snapshots if record.kind == "flatness"]
    cases = [
        case
        for case in ("average", "worst")
        if any(record.name.startswith(f"flatness-{case}-") for record in flatness)
    ]
    if not cases:
        return None
    curvature = _named([r for r in snapshots if r.kind == "curvature"], "curvature-loss-test")
    figure, (beside, *panels) = _panels(1 + len(cases) + bool(curvature))
    steps = {record.step for record in flatness}
    _loss_at_snapshots(beside, snapshots, metrics, steps)
    beside.set_ylabel("cross-entropy (nats)")
    if curvature:
        _record_curve(panels[-1], curvature, "lambda_max", "loss")
        panels[-1].set_title("λmax of Loss")
        panels[-1].set_ylabel("largest eigenvalue of the Hessian")
    for axes, case in zip(panels, cases, strict=False):
        xi = None
        for split in ("test", "train"):
            for loss in ("rloss", "loss"):
                series = _named(flatness, f"flatness-{case}-{loss}-{split}")
                _record_curve(axes, series, "flatness", loss)
                xi = xi or next(filter(None, map(radius, series)), None)
        axes.set_title(f"{case.capitalize()}-case flatness" + (f", ξ = {xi:g}" if xi else ""))
        axes.set_ylabel("increase of the loss (nats)")
    for axes in figure.axes:
        style.epoch_axis(axes)
        if axes.dataLim.ymin >= 0:
            axes.set_ylim(bottom=0)
    style.legend_below(figure)
    return figure if _has_data(panels) else None


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
