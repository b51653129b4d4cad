"""Landscapes of the methods of a sweep beside each other (Figs. A, B and F).

A figure for each kind of direction, a small panel for each family of methods, the baseline
grey in all of them. Of each method it is the first run that has one. Landscapes by filter
(Fig. B) are apart from those by layer.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rfm.reporting import style, sweep_families
from rfm.reporting.protocol import setting
from rfm.reporting.records import LandscapeData, Record
from rfm.reporting.sweep_look import HUES, small_multiples
from rfm.reporting.sweep_points import records_of
from rfm.reporting.sweep_rows import Row

KINDS = ("random", "adversarial", "hessian")
PER = ("layer", "filter")

_HIGHEST = 10.0  # nats; beyond, curves leave, as in `landscapes`


def curve(data: LandscapeData, kind: str) -> np.ndarray:
    """Over directions: of adversarial ones the maximum, of others the mean."""
    return data.losses.max(0) if kind == "adversarial" else data.losses.mean(0)


def found(rows: Sequence[Row], kind: str, per: str) -> dict[int, LandscapeData]:
    """RLoss along a kind of direction, by the number of each method that has it.

    Of the checkpoint that the table is of, and of those made alike: the largest set of methods
    whose lengths, examples and attack agree.
    """
    names = (f"landscape-{kind}-rloss-test", f"landscape-{kind}-rloss-test-filter")
    made: dict[str, dict[int, LandscapeData]] = {}
    for row in rows:
        for member in row.members:
            for record in records_of(member):
                if record.name in names and _per(record) == per and record.landscape is not None:
                    alike = made.setdefault(_settings(record), {})
                    alike.setdefault(row.number, record.landscape)
    return max(made.values(), key=len, default={})


def _settings(record: Record) -> str:
    """What landscapes must share to be drawn beside each other."""
    return json.dumps([record.protocol.get(key) for key in ("ball", "examples", "attack")])


def _per(record: Record) -> str:
    return str(setting(record.protocol.get("ball") or {}, "per") or "layer")


@style.styled()
def lines(rows: Sequence[Row], kind: str, per: str = "layer") -> Figure | None:
    """RLoss of all methods along a kind of direction (Figs. A and B).

    Args:
      rows: the methods.
      kind: of `KINDS`.
      per: of `PER`, what the directions are relative to.
    """
    there = found(rows, kind, per)
    if not there:
        return None
    shown = [row for row in rows if row.number in there]
    panels = sweep_families.panels(shown) if len(shown) > len(HUES) else {"": shown}
    baseline = sweep_families.baseline(shown)
    small = len(panels) > 1
    figure, every = small_multiples(
        len(panels), across=4, width=3.1 if small else 6.0, height=2.9 if small else 4.0
    )
    for place, (axes, (title, of_panel)) in enumerate(zip(every, panels.items(), strict=True)):
        if baseline is not None and baseline not in of_panel:
            _draw(axes, there[baseline.number], kind, style.colour("muted"), "")
        for number, row in enumerate(of_panel):
            label = f"{row.number}  {row.name}"
            _draw(axes, there[row.number], kind, HUES[number % len(HUES)], label)
        axes.set_title(title, fontsize=9.5)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2 if small else -0.14),
                    fontsize=7 if small else 8.5, ncols=2 if small else 3,
                    columnspacing=1.0, handlelength=1.2, labelspacing=0.3)  # fmt: skip
        axes.set_xlabel("step" if place >= len(panels) - 4 else "", fontsize=8 if small else 9.5)
        if place % 4 == 0:
            axes.set_ylabel("RLoss, test (nats)")
    lowest, highest = every[0].get_ylim()
    every[0].set_ylim(lowest, min(highest, _HIGHEST))
    return figure


def _draw(axes: Axes, data: LandscapeData, kind: str, colour: str, label: str) -> None:
    axes.plot(data.steps, curve(data, kind), color=colour, linewidth=1.3, label=label or None)


def scaled(row: Row) -> dict[str, dict[str, LandscapeData]]:
    """Landscapes of a run of a method and its rescaled networks, by kind and factor."""
    found: dict[str, dict[str, LandscapeData]] = {}
    for member in row.members:
        there: dict[str, dict[str, LandscapeData]] = {}
        for record in records_of(member):
            name, _, loss = record.name.partition("-rloss-test")
            kind = name.removeprefix("landscape-")
            factor = record.variant.removeprefix("scaled-") if record.variant else "1"
            if record.landscape is not None and kind in KINDS and loss in ("", f"-scaled-{factor}"):
                there.setdefault(kind, {}).setdefault(factor, record.landscape)
        found = {kind: by for kind, by in there.items() if len(by) > 1} | found
    return found


@style.styled()
def rescaled(rows: Sequence[Row]) -> Figure | None:
    """RLoss of the same function with rescaled convolutions (Fig. F, left)."""
    panels = [(row, kind, by) for row in rows for kind, by in scaled(row).items()]
    if not panels:
        return None
    figure, every = small_multiples(len(panels), across=3, width=3.6, height=3.0, share=False)
    for axes, (row, kind, by) in zip(every, panels, strict=True):
        _factors(axes, by, kind)
        axes.set_title(f"{row.name}, {kind} directions", fontsize=9.5)
        axes.set_xlabel("step")
    every[0].set_ylabel("RLoss, test (nats)")
    style.legend_below(figure)
    return figure


def _factors(axes: Axes, by: Mapping[str, LandscapeData], kind: str) -> None:
    dashes = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
    for place, factor in enumerate(sorted(by, key=float)):
        axes.plot(by[factor].steps, curve(by[factor], kind), label=f"× {factor}",
                  color=HUES[place % len(HUES)], linestyle=dashes[place % len(dashes)])  # fmt: skip
