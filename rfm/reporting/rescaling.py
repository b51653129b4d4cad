"""What rescaled weights of the same function change of flatness and of the Hessian (Fig. F).

A network with normalisation layers computes the same with larger or smaller convolutions. A measure
of the minimum should not see the difference: flatness in relative balls does not, eigenvalues do.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from rfm.reporting import variants
from rfm.reporting.records import Record, Value
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_groups import alike
from rfm.reporting.sweep_points import AVERAGE, LAMBDA_MAX, WORST, records_of


@dataclasses.dataclass(frozen=True)
class Change:
    """A measure of a rescaled network beside that of the network as it is.

    Attributes:
      factor: the larger over the smaller.
      is_beyond: do they differ by more than two standard errors? None if these are unknown.
    """

    factor: float
    is_beyond: bool | None


@dataclasses.dataclass(frozen=True)
class Changes:
    """Of several networks.

    Attributes:
      scales: that convolutions were multiplied by.
      flat: of average- and worst-case flatness of RLoss.
      curved: of lambda_max.
    """

    scales: tuple[float, ...]
    flat: tuple[Change, ...]
    curved: tuple[Change, ...]

    @property
    def only_curved(self) -> bool | None:
        """Does lambda_max change everywhere, and flatness nowhere? None if it cannot be told."""
        if any(change.is_beyond is None for change in (*self.flat, *self.curved)):
            return None
        flat, curved = ([of.is_beyond for of in group] for group in (self.flat, self.curved))
        return not any(flat) and all(curved)


def changes(members: Iterable[Member]) -> Changes | None:
    """Of the last checkpoints; None without both of flatness and the Hessian."""
    keys = {AVERAGE.record: "flatness", WORST.record: "flatness", LAMBDA_MAX.record: "lambda_max"}
    found: dict[str, list[Change]] = {"flatness": [], "lambda_max": []}
    scales: set[float] = set()
    for member in members:
        records = records_of(member)
        plain = {record.name: record for record in records if not record.variant}
        for scale, group in variants.by_scale(records).items():
            for name in [name for name in keys if scale != 1 and name in group and name in plain]:
                if (change := _change(group[name], plain[name], keys[name])) is not None:
                    found[keys[name]].append(change)
                    scales.add(scale)
    flat, curved = map(tuple, found.values())
    return Changes(tuple(sorted(scales)), flat, curved) if flat and curved else None


def _change(scaled: Record, plain: Record, key: str) -> Change | None:
    first, second = scaled.value(key), plain.value(key)
    if not alike(scaled, plain) or not first.value or not second.value:
        return None
    ratio = abs(first.value / second.value)
    return Change(max(ratio, 1 / ratio), _differ(first, second))


def _differ(first: Value, second: Value) -> bool | None:
    if first.value is None or second.value is None:
        return None
    if first.standard_error is None or second.standard_error is None:
        return None
    reach = 2 * float(np.hypot(first.standard_error, second.standard_error))
    return abs(first.value - second.value) > reach
