"""The paper's findings, asked of the runs of a sweep.

Each of them is a sentence of the paper, the number that it rests on there, the same number of
these runs, and whether it was found again. When that is so is fixed beforehand: a coefficient, a
difference or a rise counts if chance is no explanation of its sign, that is, if its 95 % interval
(over methods) or twice its standard deviation (over seeds) leaves out zero. An interval that has
zero in it decides nothing.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from rfm.reporting import sweep_families, variants
from rfm.reporting.correlation import correlation, difference, in_words
from rfm.reporting.metrics import Metrics
from rfm.reporting.paper_rows import Published
from rfm.reporting.scatter import snapshots
from rfm.reporting.sweep_groups import pairs
from rfm.reporting.sweep_points import AVERAGE, WORST, Measured, Points, points, records_of
from rfm.reporting.sweep_rows import Row
from rfm.reporting.sweep_snapshots import Course
from rfm.reporting.tables import markdown_escape

AVERAGE_LOSS = Measured("Average-case flatness of Loss", "flatness-average-loss-test")
LAMBDA_MAX = Measured("λmax of Loss", "curvature-loss-test", "lambda_max")
TRAIN_RLOSS = Measured("RLoss, train", "evaluation-train", "rloss")
_PAPERS = {
    AVERAGE: "average_rloss",
    WORST: "worst_rloss",
    AVERAGE_LOSS: "average_loss",
    TRAIN_RLOSS: "rloss_pgd_train",
}
_SAME = 1.25  # a factor that the randomness of a measure may have
COLUMNS = ("finding", "paper", "here", "found again")
"""Of a table of findings."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One of the paper's.

    Attributes:
      claim: what it says.
      paper: the number that the paper has for it.
      here: that of these runs.
      held: is it so here? None if these runs do not decide.
    """

    claim: str
    paper: str
    here: str
    held: bool | None

    @property
    def verdict(self) -> str:
        """In a word."""
        return {True: "yes", False: "no", None: "not decided"}[self.held]

    @property
    def cells(self) -> tuple[str, ...]:
        """Of a table's line."""
        return self.claim, self.paper, self.here, self.verdict


def findings(
    rows: Sequence[Row], courses: Sequence[Course] = (), paper: Iterable[Published] = ()
) -> tuple[Finding, ...]:
    """Those that there are records for.

    Args:
      rows: the methods.
      courses: snapshots of a run of each method.
      paper: its rows, for its coefficients.
    """
    published = [row for row in paper if row.method]
    of = {measure: points(rows, measure) for measure in (*_PAPERS, LAMBDA_MAX)}
    found = (
        _overfitting(rows),
        _correlated(of, AVERAGE, 1, "Less robust networks are sharper on average", published),
        _correlated(of, WORST, 1, "They are sharper in the worst case", published),
        _tells_more(of, AVERAGE_LOSS, "Flatness of Loss tells far less of RLoss", published),
        _tells_more(of, LAMBDA_MAX, "The Hessian tells less of RLoss", published),
        _correlated(of, TRAIN_RLOSS, -1, "What fits training examples less is more robust",
                    published),
        *(_early_stopping(rows, measure) for measure in (AVERAGE, WORST)),
        _through_training(courses),
        _rescaling(rows),
    )  # fmt: skip
    return tuple(finding for finding in found if finding is not None)


def to_markdown(found: Sequence[Finding]) -> str | None:
    """A pipe table; None without any."""
    if not found:
        return None
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(f.cells for f in found)]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return text if text == "---" else markdown_escape(text)


def rise(metrics: Metrics) -> tuple[float, float] | None:
    """Held-out RLoss of the best snapshot and of the last one; None without two."""
    values = [line.rloss for line in metrics.validation if line.rloss is not None]
    return (min(values), values[-1]) if len(values) > 1 else None


def _overfitting(rows: Sequence[Row]) -> Finding | None:
    row = sweep_families.baseline(rows)
    ends = [] if row is None else [e for m in row.members if (e := rise(m.run.metrics))]
    if not ends:
        return None
    rises = [100 * (last / lowest - 1) for lowest, last in ends]
    lowest, last, mean = (statistics.fmean(values) for values in (*zip(*ends, strict=True), rises))
    text, held = f"held-out RLoss {lowest:.2f} to {last:.2f}, {mean:+.0f} %", None
    if len(rises) > 1:
        spread = statistics.stdev(rises)
        text += f" (standard deviation over {len(rises)} seeds {spread:.0f})"
        held = _sign(mean - 2 * spread, mean + 2 * spread)
    claim = "Robust overfitting: RLoss of the baseline rises again after its minimum"
    return Finding(claim, "1.53 (early stopping) to 3.91, +156 %", text, held)


def _sign(low: float, high: float) -> bool | None:
    """Is what lies between them positive? None if both signs do."""
    return True if low > 0 else False if high < 0 else None


def _correlated(
    of: Mapping[Measured, Points],
    measure: Measured,
    sign: int,
    claim: str,
    paper: Sequence[Published],
) -> Finding | None:
    found = of[measure].correlation
    if found is None:
        return None
    interval = found.pearson_interval
    held = None
    if interval is not None:
        held = _sign(*sorted(sign * end for end in interval))
    theirs = _papers(paper, measure)
    return Finding(
        f"{claim} (RLoss against {_lower(measure.title)}, Pearson)",
        "" if theirs is None else in_words(theirs, None),
        f"{in_words(found.pearson, interval)}; {found.methods} methods, {found.runs} runs",
        held,
    )


def _tells_more(
    of: Mapping[Measured, Points], other: Measured, claim: str, paper: Sequence[Published]
) -> Finding | None:
    """Average-case flatness of RLoss against another measure, on the runs that have both."""
    ours = {member.path: x for member, x in zip(of[AVERAGE].members, of[AVERAGE].x, strict=True)}
    theirs = of[other]
    shared = [
        (ours[member.path], x, y, number)
        for member, x, y, number in zip(
            theirs.members, theirs.x, theirs.y, theirs.numbers, strict=True
        )
        if member.path in ours
    ]
    first, second, losses, numbers = zip(*shared, strict=True) if shared else ((),) * 4
    coefficients = [correlation(x, losses, numbers) for x in (first, second)]
    found = difference(first, second, losses, numbers)
    if found is None or None in coefficients:
        return None
    values = " and ".join(in_words(of.pearson, None) for of in coefficients if of is not None)
    papers = [_papers(paper, measure) for measure in (AVERAGE, other)]
    return Finding(
        f"{claim} (Pearson of average-case flatness of RLoss, then of {_lower(other.title)})",
        " and ".join(in_words(value, None) for value in papers if value is not None)
        if None not in papers
        else "",
        f"{values}; difference {in_words(*found)}",
        _sign(*found[1]),
    )


def _papers(paper: Sequence[Published], measure: Measured) -> float | None:
    """Pearson's r of the paper's Tables D and E."""
    column = _PAPERS.get(measure)
    there = [
        (x, y)
        for row in paper
        if column and (x := row.values.get(column)) is not None
        and (y := row.values.get("rloss_pgd_test")) is not None
    ]  # fmt: skip
    found = correlation(*zip(*there, strict=True)) if len(there) > 2 else None
    return None if found is None else found.pearson


def _lower(title: str) -> str:
    return title[0].lower() + title[1:] if title[1:2].islower() else title


def _early_stopping(rows: Sequence[Row], measure: Measured) -> Finding | None:
    """Of each method the mean over its runs that early stopping stops before the end."""
    of_rows: dict[int, list[np.ndarray]] = {}
    for pair in pairs(rows, measure):
        of_rows.setdefault(pair.number, []).append(np.subtract(pair.final, pair.best))
    if not of_rows:
        return None
    gains = np.array([np.mean(of_row, axis=0) > 0 for of_row in of_rows.values()])
    (flatter, better), both = gains.sum(axis=0), int(gains.all(axis=1).sum())
    shares = [_majority(int(count), len(gains)) for count in (flatter, better)]
    held = False if False in shares else None if None in shares else True
    return Finding(
        f"Early stopping improves RLoss and {_lower(measure.title)}",
        "all methods that it helps" if measure is AVERAGE else "",
        f"of {len(gains)} methods {better} have lower RLoss, {flatter} are flatter, {both} both",
        held,
    )


def _majority(count: int, total: int) -> bool | None:
    """Is it more than half, beyond chance (Wilson's 95 % interval)?"""
    interval = stats.binomtest(count, total).proportion_ci(method="wilson")
    return _sign(interval.low - 0.5, interval.high - 0.5)


def _through_training(courses: Sequence[Course]) -> Finding | None:
    """Spearman of RLoss and average-case flatness, from the snapshot of lowest RLoss on."""
    found = []
    for course in courses:
        seen = snapshots(course.records, "average")
        losses = [loss for _, _, loss in seen]
        after = seen[losses.index(min(losses)) :] if seen else []
        of = correlation([flat for _, flat, _ in after], [loss for _, _, loss in after])
        if of is not None:
            found.append((course.row.name, of.spearman))
    if not found:
        return None
    return Finding(
        "Once RLoss rises in training, flatness worsens with it (Spearman over the snapshots"
        " from the lowest RLoss on)",
        "Figs. C and I",
        ", ".join(f"{name} {in_words(value, None)}" for name, value in found),
        _majority(sum(value > 0 for _, value in found), len(found)),
    )


def _rescaling(rows: Sequence[Row]) -> Finding | None:
    """By what factors flatness and lambda_max differ from those of the unscaled network."""
    changes: dict[str, list[float]] = {"flatness": [], "lambda_max": []}
    factors: set[float] = set()
    for member in (member for row in rows for member in row.members):
        records = records_of(member)
        scaled = variants.by_scale(records)
        plain = {record.name: record for record in records if not record.variant}
        plain |= scaled.pop(1.0, {})
        for factor, group in scaled.items():
            for name in group.keys() & plain.keys():
                for key, of_key in changes.items():
                    ends = group[name].value(key).value, plain[name].value(key).value
                    if ends[0] and ends[1]:
                        of_key.append(math.exp(abs(math.log(abs(ends[0] / ends[1])))))
                        factors.add(factor)
    flat, curved = changes.values()
    if not flat or not curved:
        return None
    return Finding(
        "Rescaled weights of the same function leave flatness as it is, and not the Hessian"
        f" (factors {', '.join(f'{factor:g}' for factor in sorted(factors))})",
        "flatness changes by a factor of up to 1.12, λmax by 3.9 to 4.0",
        f"flatness changes by a factor of up to {max(flat):.3g}, λmax by {min(curved):.3g} to"
        f" {max(curved):.3g}",
        max(flat) < _SAME < min(curved),
    )
