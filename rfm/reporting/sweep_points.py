"""What RLoss is plotted against: measures of the runs of a sweep, measured alike.

`MEASURES` are those of Figs. D and of the main paper; `radii` adds one for each radius at which
flatness was measured (Fig. E). `points` takes the runs that have one of them and RLoss.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from rfm.reporting import sweep_settings
from rfm.reporting.correlation import Correlation, correlation
from rfm.reporting.protocol import radius
from rfm.reporting.records import Record, latest
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_rows import Row


@dataclasses.dataclass(frozen=True)
class Measured:
    """A value of a record.

    Attributes:
      title: in figures and tables.
      record: its name, without that of a variant.
      value: which of its values.
      radius: xi of Eq. (4), where the record may be a variant at that radius.
    """

    title: str
    record: str
    value: str = "flatness"
    radius: float | None = None

    def of(self, records: Iterable[Record]) -> tuple[Record, float] | None:
        """The record that has it, and the value; None without."""
        for record in records:
            value = record.value(self.value).value if self._is_of(record) else None
            if value is not None:
                return record, value
        return None

    def _is_of(self, record: Record) -> bool:
        if self.radius is None:
            return record.name == self.record
        xi = radius(record)
        return (
            xi is not None
            and math.isclose(xi, self.radius, rel_tol=1e-5)
            and at_some_radius(record, self.record)
        )


def at_some_radius(record: Record, name: str) -> bool:
    """Is it the record of that name, or a variant of it at another radius?"""
    variant = record.variant
    return record.name == name or (variant.startswith("xi-") and record.name == f"{name}-{variant}")


RLOSS = Measured("RLoss, test", "evaluation-test", "rloss")
RERR = Measured("RErr, test", "evaluation-test", "rerr")
AVERAGE = Measured("Average-case flatness of RLoss", "flatness-average-rloss-test")
WORST = Measured("Worst-case flatness of RLoss", "flatness-worst-rloss-test")
AVERAGE_LOSS = Measured("Average-case flatness of Loss", "flatness-average-loss-test")
LAMBDA_MAX = Measured("λmax of Loss", "curvature-loss-test", "lambda_max")
TRAIN_RLOSS = Measured("RLoss, train", "evaluation-train", "rloss")
MEASURES = (
    AVERAGE,
    WORST,
    Measured("Std of average-case flatness of RLoss", AVERAGE.record, "std"),
    Measured("Average-case flatness of train RLoss", "flatness-average-rloss-train"),
    Measured("Worst-case flatness of Loss", "flatness-worst-loss-test"),
    AVERAGE_LOSS,
    Measured("Worst-case flatness of train RLoss", "flatness-worst-rloss-train"),
    Measured("Average-case flatness of train Loss", "flatness-average-loss-train"),
    Measured("Worst-case flatness of train Loss", "flatness-worst-loss-train"),
    LAMBDA_MAX,
    Measured("λmax of RLoss", "curvature-rloss-test", "lambda_max"),
    Measured("|λmin|/|λmax| of Loss", "curvature-loss-test", "convexity"),
)
"""In the order of the paper: the main figure, Fig. D, then what it has in tables or not at all."""


@dataclasses.dataclass(frozen=True)
class Points:
    """Two measures of the runs that have both, measured alike.

    Attributes:
      x, y: of each run.
      numbers: the row of each.
      members: each run.
      left_out: how many runs have both by another protocol.
      correlation: over runs, its intervals over methods; None of too few.
    """

    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    numbers: tuple[int, ...] = ()
    members: tuple[Member, ...] = ()
    left_out: int = 0
    correlation: Correlation | None = None


def records_of(member: Member) -> list[Record]:
    """Of the checkpoint that the table is of, variants included."""
    step = max((record.step for record in latest(member.run.records)), default=0)
    return [r for r in member.run.records if r.step == step and not r.snapshot]


def points(rows: Sequence[Row], x: Measured, y: Measured = RLOSS) -> Points:
    """The runs that have two values.

    Runs whose protocols of these records differ cannot be compared: of the largest set of
    runs that agree, all are taken, and of the others none.
    """
    alike: list[tuple[sweep_settings.Settings, list[tuple[float, float, int, Member]]]] = []
    for row in rows:
        for member in row.members:
            records = records_of(member)
            found = [measure.of(records) for measure in (x, y)]
            if found[0] is None or found[1] is None:
                continue
            total = member.steps[1]
            settings = {
                axis: sweep_settings.of_record(record, total)
                for axis, (record, _) in zip("xy", filter(None, found), strict=True)
            }
            fitting = (
                group
                for other, group in alike
                if settings == other or sweep_settings.agree(settings, other)
            )
            if (group := next(fitting, None)) is None:
                group = []
                alike.append((settings, group))
            group.append((found[0][1], found[1][1], row.number, member))
    if not alike:
        return Points()
    largest = max((group for _, group in alike), key=len)
    of_x, of_y, numbers, members = zip(*largest, strict=True)
    left_out = sum(len(group) for _, group in alike) - len(largest)
    coefficients = correlation(of_x, of_y, numbers)
    return Points(of_x, of_y, numbers, members, left_out, coefficients)


def all_points(rows: Sequence[Row]) -> dict[Measured, Points]:
    """Test RLoss and everything that at least two runs have, in the order of the paper."""
    found = {measure: points(rows, measure) for measure in (*MEASURES, *radii(rows))}
    return {measure: of for measure, of in found.items() if len(of.x) > 1}


def radii(rows: Sequence[Row]) -> list[Measured]:
    """Flatness of test RLoss at each radius (Fig. E), of cases measured at several."""
    found: list[Measured] = []
    for measure in (AVERAGE, WORST):
        there: list[float] = []
        for row in rows:
            for member in row.members:
                for record in records_of(member):
                    xi = radius(record)
                    if xi is not None and at_some_radius(record, measure.record):
                        there.append(xi)
        each = sorted(dict.fromkeys(float(f"{xi:.6g}") for xi in there))
        if len(each) > 1:
            found += [
                dataclasses.replace(measure, title=f"{measure.title}, ξ = {xi:g}", radius=xi)
                for xi in each
            ]
    return found
