"""RLoss against flatness through training (Fig. I): one point for each snapshot."""

from collections.abc import Iterable

import matplotlib
from matplotlib.figure import Figure

from rfm.reporting import style
from rfm.reporting.records import Record

_MEASURES = {
    "average": "Average-case flatness of RLoss",
    "worst": "Worst-case flatness of RLoss",
}


@style.styled()
def loss_against_flatness(records: Iterable[Record]) -> Figure | None:
    """Test RLoss over flatness, early epochs dark blue, late ones dark red; None without.

    Both are of the snapshots' smaller protocol. Robust overfitting runs to the upper right.
    """
    by_name: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.snapshot:
            by_name.setdefault(record.name, {})[record.step] = record
    evaluated = by_name.get("evaluation-test", {})
    cases = [case for case in _MEASURES if by_name.get(f"flatness-{case}-rloss-test")]
    if len(evaluated) < 2 or not cases:
        return None
    figure = Figure(figsize=(4.6 * len(cases) + 0.8, 3.8), layout="constrained")
    panels = figure.subplots(1, len(cases), squeeze=False, sharey=True)[0]
    for axes, case in zip(panels, cases, strict=True):
        flat = by_name[f"flatness-{case}-rloss-test"]
        points = [
            (record.epoch, flat[step].value("flatness").value, record.value("rloss").value)
            for step, record in sorted(evaluated.items())
            if step in flat and record.epoch is not None
        ]
        complete = [point for point in points if None not in point]
        if not complete:
            continue
        epochs, x, y = zip(*complete, strict=True)
        axes.plot(x, y, color=style.colour("grid"), linewidth=1.0, zorder=1)
        drawn = axes.scatter(x, y, c=epochs, cmap=matplotlib.colormaps["RdYlBu_r"], zorder=2,
                             edgecolor=style.colour("muted"), linewidth=0.6)  # fmt: skip
        axes.set_xlabel(_MEASURES[case])
    panels[0].set_ylabel("RLoss, test")
    if not any(axes.has_data() for axes in panels):
        return None
    figure.colorbar(drawn, ax=list(panels), label="epoch")
    return figure
