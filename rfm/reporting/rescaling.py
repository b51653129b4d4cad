"""What rescaled weights of the same function change of flatness and of the Hessian (Fig. F).

A network with normalisation layers computes the same with larger or smaller convolutions. A measure
of the minimum should not see the difference: flatness in relative balls does not, eigenvalues do.
"""

import dataclasses
import math
from collections.abc import Iterable

from rfm.reporting import variants
from rfm.reporting.records import Record
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_groups import alike
from rfm.reporting.sweep_points import AVERAGE, LAMBDA_MAX, WORST, records_of


@dataclasses.dataclass(frozen=True)
class Changes:
    """Measures of rescaled networks beside those of the networks as they are.

    Attributes:
      scales: that convolutions were multiplied by.
      flat: of average- and worst-case flatness of RLoss, the larger value over the smaller;
        infinite if they have other signs.
      curved: the same of lambda_max.
    """

    scales: tuple[float, ...]
    flat: tuple[float, ...]
    curved: tuple[float, ...]


def changes(members: Iterable[Member]) -> Changes | None:
    """Of the last checkpoints; None without both of flatness and the Hessian."""
    keys = {AVERAGE.record: "flatness", WORST.record: "flatness", LAMBDA_MAX.record: "lambda_max"}
    found: dict[str, list[float]] = {"flatness": [], "lambda_max": []}
    scales: set[float] = set()
    for member in members:
        records = records_of(member)
        plain = {record.name: record for record in records if not record.variant}
        for scale, group in variants.by_scale(records).items():
            for name in [name for name in keys if scale != 1 and name in group and name in plain]:
                if (factor := _factor(group[name], plain[name], keys[name])) is not None:
                    found[keys[name]].append(factor)
                    scales.add(scale)
    flat, curved = map(tuple, found.values())
    return Changes(tuple(sorted(scales)), flat, curved) if flat and curved else None


def _factor(scaled: Record, plain: Record, key: str) -> float | None:
    values = scaled.value(key).value, plain.value(key).value
    if None in values or not alike(scaled, plain):
        return None
    first, second = (float(value) for value in values if value is not None)
    if first == second:
        return 1.0
    if first * second <= 0:
        return math.inf
    return max(first / second, second / first)
