"""Means over seeds: one row for each method, of runs that are the same but for the seed.

Runs whose training or whose measures differ in anything else are rows of their own, which
say what it is. Nothing is filled in: a mean is over the runs that have the value.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

from rfm.reporting import sweep_settings
from rfm.reporting.records import Record, Value
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_settings import Settings
from rfm.reporting.tables import MEASURES, SPLITS, Measure

Place = tuple[str, str]
"""A measure's label and a split."""


@dataclasses.dataclass(frozen=True)
class Mean:
    """A measure over the runs of a row, in percent or nats.

    Attributes:
      value: the mean.
      deviation: the standard deviation over runs (n - 1), None of a single one.
      standard_error: over examples, of a single run; None of several, or if unknown.
      runs: how many have the value.
      decimals: that are shown.
    """

    value: float
    deviation: float | None
    standard_error: float | None
    runs: int
    decimals: int


@dataclasses.dataclass(frozen=True)
class Row:
    """A method over its seeds.

    Attributes:
      number: its place in the table, from 1; figures call it by that.
      name: of the config.
      apart: what tells it from other rows of the same name, () if there are none.
      members: its runs.
      means: what was measured.
      settings: what its runs have in common.
    """

    number: int
    name: str
    apart: tuple[str, ...]
    members: tuple[Member, ...]
    means: Mapping[Place, Mean]
    settings: Settings

    @property
    def title(self) -> str:
        return f"{self.name} ({', '.join(self.apart)})" if self.apart else self.name

    def value(self, label: str, split: str) -> float | None:
        """A mean, None where there is none."""
        mean = self.means.get((label, split))
        return None if mean is None else mean.value


def rows(members: Iterable[Member]) -> tuple[Row, ...]:
    """All methods, the lowest robust test error first; those without one last, by name.

    It is by AutoAttack if all that have any RErr have that, too, else by PGD.
    """
    groups: dict[str, list[list[tuple[Member, Settings]]]] = {}
    for member in members:
        if not (member.run.config or member.records):
            continue  # nothing is known of it
        settings = sweep_settings.settings(member)
        of_name = groups.setdefault(member.run.name, [])
        fitting = (
            group
            for group in of_name
            if all(sweep_settings.agree(settings, other) for _, other in group)
        )
        if (group := next(fitting, None)) is not None:
            group.append((member, settings))
        else:
            of_name.append([(member, settings)])
    found = [row for name, of_name in groups.items() for row in _of_name(name, of_name)]
    label = sorted_by(found)

    def rank(row: Row) -> tuple[bool, float, str]:
        error = row.value(label, "test")
        return error is None, error or 0.0, row.title

    found.sort(key=rank)
    return tuple(
        dataclasses.replace(row, number=number) for number, row in enumerate(found, start=1)
    )


def sorted_by(found: Iterable[Row]) -> str:
    """The label of the measure that rows are sorted by."""
    measured = [row for row in found if any(label.startswith("RErr") for label, _ in row.means)]
    attacked = [row.value("RErr (AA)", "test") is not None for row in measured]
    return "RErr (AA)" if attacked and all(attacked) else "RErr"


def _of_name(name: str, groups: Sequence[Sequence[tuple[Member, Settings]]]) -> list[Row]:
    settings = [sweep_settings.joined([of for _, of in group]) for group in groups]
    told = sweep_settings.telling(sweep_settings.differences(settings), len(groups))
    return [
        Row(
            0,
            name,
            tuple(apart),
            tuple(m for m, _ in group),
            means(m.records for m, _ in group),
            of,
        )
        for group, of, apart in zip(groups, settings, told, strict=True)
    ]


def means(runs: Iterable[Iterable[Record]]) -> dict[Place, Mean]:
    """All measures over runs, each given by the records of one of its checkpoints."""
    by_name = [{record.name: record for record in records} for records in runs]
    found = {}
    for measure in MEASURES:
        for split in SPLITS:
            name = measure.record.format(split)
            records = [of_run[name] for of_run in by_name if name in of_run]
            mean = mean_of([record.value(measure.value) for record in records], measure)
            if mean is not None:
                found[measure.label, split] = mean
    return found


def mean_of(values: Iterable[Value], measure: Measure) -> Mean | None:
    """Over the values that are there; None without any."""
    there = [value for value in values if value.value is not None]
    if not there:
        return None
    unit = 100 if measure.percent else 1
    numbers = [unit * value.value for value in there if value.value is not None]
    error = there[0].standard_error if len(there) == 1 else None
    examples = min(value.examples or 0 for value in there)
    return Mean(
        value=statistics.fmean(numbers),
        deviation=statistics.stdev(numbers) if len(numbers) > 1 else None,
        standard_error=None if error is None else unit * error,
        runs=len(numbers),
        decimals=_decimals(measure, statistics.fmean(numbers), examples),
    )


def _decimals(measure: Measure, value: float, examples: int) -> int:
    """As in the table of a run; of eigenvalues in the hundreds one."""
    if measure.percent:
        return 2 if examples >= 10_000 else 1
    return 3 if abs(value) < 100 else 1


def warnings(found: Sequence[Row]) -> tuple[str, ...]:
    """What a reader who compares the rows is to know, a line each."""
    lines = []
    for row in found:
        by_seed: dict[int, list[str]] = {}
        for member in row.members:
            if member.seed is not None and member.records:
                by_seed.setdefault(member.seed, []).append(member.path)
        lines += [
            f"{row.title}: seed {seed} counts {len(paths)} times ({', '.join(paths)})"
            for seed, paths in by_seed.items()
            if len(paths) > 1
        ]
    protocols = [
        {k: v for k, v in row.settings.items() if k not in sweep_settings.OF_TRAINING}
        for row in found
    ]
    names = [f"{row.number} {row.name}" for row in found]
    differing = sweep_settings.differences(protocols)
    lines += [f"Not measured alike: {line}" for line in sweep_settings.summary(differing, names)]
    return tuple(lines)
