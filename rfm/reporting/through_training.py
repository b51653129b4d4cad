"""Flatness of the snapshots over epochs, beside their RLoss and lambda_max (Fig. C)."""

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rfm.reporting import style
from rfm.reporting.figures import curve, has_data, panels
from rfm.reporting.metrics import Metrics
from rfm.reporting.protocol import radius
from rfm.reporting.records import Record


@style.styled()
def flatness_through_training(records: Iterable[Record], metrics: Metrics) -> Figure | None:
    """Average- and worst-case flatness of the snapshots, a panel for each radius (Fig. C).

    Error bars are one standard error. Robust overfitting shows as test RLoss that rises
    together with flatness.
    """
    snapshots = [record for record in records if record.snapshot]
    flatness = [record for record in snapshots if record.kind == "flatness"]
    by_case = {case: _by_radius(flatness, case) for case in ("average", "worst")}
    by_case = {case: found for case, found in by_case.items() if found}
    if not by_case:
        return None
    curvature = _named(snapshots, "curvature-loss-test")
    counts = [len(found) for found in by_case.values()]
    # Cases with one radius each share a row, with the losses if there is room.
    rows = [1 + bool(curvature), *(counts if max(counts) > 1 else [sum(counts)])]
    rows = rows if sum(rows) > 3 else [sum(rows)]
    figure, found = panels(rows)
    beside, *rest = [axes for row in found for axes in row]
    _losses(beside, snapshots, metrics, {record.step for record in flatness})
    beside.set_ylabel("cross-entropy (nats)")
    if curvature:
        axes, *rest = rest
        _record_curve(axes, curvature, "lambda_max", "loss")
        axes.set_title("λmax of Loss")
        axes.set_ylabel("largest eigenvalue")
    series = [(case, xi, of) for case, found in by_case.items() for xi, of in found.items()]
    for axes, (case, xi, of_radius) in zip(rest, series, strict=True):
        for split in ("test", "train"):
            for loss in ("rloss", "loss"):
                named = [r for r in of_radius if f"-{loss}-{split}" in r.name]
                _record_curve(axes, named, "flatness", loss)
        axes.set_title(f"{case.capitalize()}-case flatness" + (f", ξ = {xi:g}" if xi else ""))
        axes.set_ylabel("increase of the loss (nats)")
    for axes in figure.axes:
        style.epoch_axis(axes)
        if axes.dataLim.ymin >= 0:
            axes.set_ylim(bottom=0)
    style.legend_below(figure)
    return figure if has_data(rest) else None


def _by_radius(flatness: Sequence[Record], case: str) -> dict[float | None, list[Record]]:
    """The records of a case by their radius, smallest first, each by step."""
    found: dict[float | None, dict[tuple[str, int], Record]] = {}
    # Of two of the same radius the one without it in its name is the config's: it is last.
    for record in sorted(flatness, key=lambda r: (r.step, -len(r.name))):
        if record.name.startswith(f"flatness-{case}-") and record.epoch is not None:
            measure = record.name.removesuffix(f"-{record.variant}")
            found.setdefault(radius(record), {})[measure, record.step] = record
    return {xi: list(found[xi].values()) for xi in sorted(found, key=lambda xi: xi or 0)}


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
    curve(
        axes,
        [record.epoch for record in records if record.epoch is not None],
        [value.value for value in values],
        [value.standard_error for value in values],
        split=split,
        robust=loss == "rloss",
        label=f"{'RLoss' if loss == 'rloss' else 'Loss'}, {split}",
    )


def _losses(axes: Axes, records: Sequence[Record], metrics: Metrics, steps: set[int]) -> None:
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
        curve(
            axes,
            [line.epoch for line in lines],
            values,
            split="test",
            robust=robust,
            label="RLoss, test" if robust else "Loss, test",
        )
