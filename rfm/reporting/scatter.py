"""RLoss against flatness through training (Fig. I): one point for each snapshot.

Both are of the snapshots' smaller protocol. Robust overfitting runs to the upper right.
"""

from collections.abc import Iterable, Mapping

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from rfm.reporting import style
from rfm.reporting.records import Record
from rfm.reporting.sweep_look import fixed_multiples, scale

_MEASURES = {
    "average": "Average-case flatness of RLoss",
    "worst": "Worst-case flatness of RLoss",
}

Snapshots = list[tuple[float, float, float]]
"""Epoch, flatness and test RLoss of each."""


def snapshots(records: Iterable[Record], case: str) -> Snapshots:
    """Those that have both, in the order of training.

    Args:
      records: of one run.
      case: "average" or "worst".
    """
    by_name: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.snapshot:
            by_name.setdefault(record.name, {})[record.step] = record
    flat = by_name.get(f"flatness-{case}-rloss-test", {})
    found = []
    for step, record in sorted(by_name.get("evaluation-test", {}).items()):
        if step in flat and record.epoch is not None:
            x, y = flat[step].value("flatness").value, record.value("rloss").value
            if x is not None and y is not None:
                found.append((record.epoch, x, y))
    return found


@style.styled()
def loss_against_flatness(records: Iterable[Record]) -> Figure | None:
    """Of one run, test RLoss over flatness, early epochs dark blue, late ones dark red."""
    records = tuple(records)
    found = {case: snapshots(records, case) for case in _MEASURES}
    found = {case: of for case, of in found.items() if of}
    if not found or max(map(len, found.values())) < 2:
        return None
    figure = Figure(figsize=(4.6 * len(found) + 0.8, 3.8), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    last = max(epoch for of in found.values() for epoch, _, _ in of)
    for axes, (case, of) in zip(panels, found.items(), strict=True):
        drawn = _draw(axes, of, last)
        axes.set_xlabel(_MEASURES[case])
    panels[0].set_ylabel("RLoss, test")
    figure.colorbar(drawn, ax=list(panels), label="epoch")
    return figure


@style.styled()
def of_methods(records: Mapping[str, Iterable[Record]], case: str) -> Figure | None:
    """The same, a small panel for each method, all on the same axes (Fig. I).

    Args:
      records: of one run of each method, by its title.
      case: "average" or "worst".
    """
    found = {title: snapshots(of, case) for title, of in records.items()}
    found = {title: of for title, of in found.items() if len(of) > 1}
    if not found:
        return None
    figure, panels = fixed_multiples(len(found), right=0.9)
    last = max(epoch for of in found.values() for epoch, _, _ in of)
    for place, (axes, (title, of)) in enumerate(zip(panels, found.items(), strict=True)):
        drawn = _draw(axes, of, last, size=14)
        axes.set_title(title, fontsize=7.5, pad=4)
        if place % 6 == 0:
            axes.set_ylabel("RLoss, test", fontsize=8)
    every = [point for of in found.values() for point in of]
    scale(panels[0], "x", [x for _, x, _ in every])
    scale(panels[0], "y", [y for _, _, y in every])
    for axes in panels:
        axes.minorticks_off()
    width, height = figure.get_size_inches()
    figure.text(0.5 * (width - 0.9) / width, 0.12 / height, _MEASURES[case], ha="center")
    bar = figure.add_axes((1 - 0.75 / width, 1 - 1.75 / height, 0.12 / width, 1.45 / height))
    figure.colorbar(drawn, cax=bar, label="epoch")
    return figure


def _draw(axes: Axes, of: Snapshots, last: float, size: float = 36) -> PathCollection:
    epochs, x, y = zip(*of, strict=True)
    axes.plot(x, y, color=style.colour("grid"), linewidth=1.0, zorder=1)
    return axes.scatter(x, y, s=size, c=epochs, cmap=matplotlib.colormaps["RdYlBu_r"], zorder=2,
                        norm=Normalize(0, last), edgecolor=style.colour("muted"),
                        linewidth=0.6 if size > 20 else 0.35)  # fmt: skip
