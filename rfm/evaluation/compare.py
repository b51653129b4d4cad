"""Two runs side by side: is one more robust, is one flatter?

Differences are paired: both runs were measured on the same examples by the same protocol, and
what makes an example hard for both cancels. Intervals are by the bootstrap over examples and
weight draws, see `rfm.flatness.difference`.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rfm.errors import UserError
from rfm.flatness import Flatness, Interval, difference
from rfm.flatness.uncertainty import mean_difference

_KINDS = ("evaluation", "attack", "flatness", "curvature")
_EVALUATED = (
    *(("RErr", "robust"), ("RLoss", "rloss"), ("Err", "correct"), ("Loss", "loss")),
    *(("λmax", "lambda_max"), ("λmin", "lambda_min")),
)
_RIGHT = frozenset({"robust", "correct"})  # of these the complement is the error
# What two runs may differ in and still be compared.
_MODEL = frozenset({"dtype", "exported", "weights", "zoo", "rescaled"})
_MAY_DIFFER = frozenset({"device", "versions", "git"}) | _MODEL


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One measure of two runs.

    Attributes:
      label: "RErr", "average-case flatness of RLoss", ...; on which split.
      values: of the first and of the second run.
      interval: of the first minus the second.
      problem: why they cannot be compared, else "".
    """

    label: str
    values: tuple[float, float]
    interval: Interval | None
    problem: str = ""


def compare(first: Path, second: Path, *, level: float = 0.95) -> list[Comparison]:
    """All measures that both runs have, of the last checkpoint of each.

    Raises:
      UserError: a folder is no workdir, or they have no measure in common.
    """
    a, b = _records(first), _records(second)
    found = [
        comparison
        for name in sorted(a.keys() & b.keys(), key=_order)
        for comparison in _compare(name, a[name], b[name], level)
    ]
    if not found:
        raise UserError(
            f"{first} and {second} have no measure in common; rfm evaluate or rfm flatness"
            " makes some"
        )
    return found


def _records(workdir: Path) -> dict[str, dict[str, Any]]:
    """By name, of the last step that has records; snapshots aside."""
    if not workdir.is_dir():
        raise UserError(f"no workdir {workdir}; make one with rfm run")
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(workdir.glob("records/*/*.json")):
        try:
            record = json.loads(path.read_text())
            plain = not record["snapshot"] and not record.get("variant", "").startswith("scaled")
            if plain and record["kind"] in _KINDS:
                found[record["name"]] = record
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the report names damaged files
    last = max((record["step"] for record in found.values()), default=0)
    return {name: record for name, record in found.items() if record["step"] == last}


def _order(name: str) -> tuple[int, str]:
    return next((i for i, kind in enumerate(_KINDS) if name.startswith(kind)), len(_KINDS)), name


def _compare(
    name: str, a: Mapping[str, Any], b: Mapping[str, Any], level: float
) -> Iterator[Comparison]:
    if name.startswith("flatness"):
        label = f"{a['case']}-case flatness of {_LOSSES[a['loss']]}{_rest(name, a)}, {a['split']}"
        values = (_number(a, "flatness"), _number(b, "flatness"))
        problem = _difference(a["protocol"], b["protocol"]) or _not_finite(np.array(values))
        interval = None if problem else difference(_flatness(a), _flatness(b), level=level)
        yield Comparison(label, values, interval, problem)
        return
    for title, field in _EVALUATED:
        if field not in a["per_example"] or field not in b["per_example"]:
            continue
        one, other = (_array(record["per_example"][field]) for record in (a, b))
        if field in _RIGHT:
            one, other = 1 - one, 1 - other
        suffix = f" ({a['attack']})" if name.startswith("attack") else ""
        if name.startswith("curvature"):
            suffix = f" of {_LOSSES[a['loss']]}"
        problem = _difference(a["protocol"], b["protocol"]) or _not_finite(one, other)
        interval = None if problem else mean_difference(one, other, level=level)
        which = a["protocol"]["examples"].get("which", "first")
        label = f"{title}{suffix}, {which} {len(one)} {a['split']}"
        yield Comparison(label, (float(one.mean()), float(other.mean())), interval, problem)


_LOSSES = {"loss": "Loss", "rloss": "RLoss"}


def _rest(name: str, record: Mapping[str, Any]) -> str:
    """What a variant's name has beyond the measure's: ", xi-0.25"."""
    plain = f"flatness-{record['case']}-{record['loss']}-{record['split']}"
    return f", {name.removeprefix(plain).removeprefix('-')}" if name != plain else ""


def _number(record: Mapping[str, Any], key: str) -> float:
    value = record["values"][key]["value"]
    return float("nan") if value is None else float(value)


def _array(values: list[Any]) -> np.ndarray:
    return np.array(values, np.float64)  # null becomes NaN


def _flatness(record: Mapping[str, Any]) -> Flatness:
    per_example = record["per_example"]
    samples = np.atleast_2d(_array(per_example["perturbed"]))
    share = per_example.get("share_draws", record["protocol"]["batch_size"])
    return Flatness(samples, _array(per_example["reference"]), int(share))


def _not_finite(*values: np.ndarray) -> str:
    finite = all(np.isfinite(value).all() for value in values)
    return "" if finite else "a loss is not finite"


def _difference(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> str:
    """The first setting that differs, in words, or "" if none does."""
    for key in sorted(a.keys() | b.keys()):
        if key in _MAY_DIFFER and not prefix:
            continue
        one, other = a.get(key), b.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            if found := _difference(one, other, f"{prefix}{key}."):
                return found
        elif one != other:
            return f"{prefix}{key} is {one} and {other}"
    return ""
