"""The paper's findings, asked of the runs of a sweep.

Each is a sentence of the paper, the number that it rests on there, that of these runs, and whether
it was found again. When that is so is fixed here (`RULES`), and neither the claim nor the rule
looks at the runs: an interval that has zero in it decides nothing, few runs decide nothing.
Networks that were trained without an adversary, or elsewhere, are no part of the paper's methods
and are not asked.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from rfm.reporting import sweep_families
from rfm.reporting.correlation import Interval, correlation, difference, in_words
from rfm.reporting.paper_rows import Published
from rfm.reporting.records import ELSEWHERE
from rfm.reporting.rescaling import changes
from rfm.reporting.sweep_groups import at_both, means, pairs
from rfm.reporting.sweep_points import (
    AVERAGE,
    AVERAGE_LOSS,
    LAMBDA_MAX,
    RERR,
    RLOSS,
    TRAIN_RLOSS,
    WORST,
    Measured,
    Points,
    points,
)
from rfm.reporting.sweep_rows import Row
from rfm.reporting.tables import OPEN, markdown_escape

COLUMNS = ("finding", "paper", "here", "found again")
RULES = (
    "In brackets: 95 % intervals by a bootstrap over methods, each counting once; none of fewer"
    " than eight.",
    "Found again, or not: the interval has one sign. Of overfitting, Student's interval over at"
    " least three seeds; of counts, a two-sided binomial test at 5 %; of rescaling, flatness of"
    " RLoss stays within two standard errors and λmax does not. Else nothing is decided.",
)
"""What stands under them."""

_PRINTED = {AVERAGE: "0.85", AVERAGE_LOSS: "0.27"}
"""Pearson's r of RLoss, by Section D."""
_IN_TABLES = {
    RLOSS: "rloss_pgd_test",
    AVERAGE: "average_rloss",
    WORST: "worst_rloss",
    TRAIN_RLOSS: "rloss_pgd_train",
}
"""Columns of the paper's tables."""


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
    def cells(self) -> tuple[str, ...]:
        """Of a table's line."""
        verdict = {True: "yes", False: "no", None: "not decided"}[self.held]
        return self.claim, self.paper or OPEN, self.here, verdict


def findings(rows: Iterable[Row], paper: Iterable[Published] = ()) -> tuple[Finding, ...]:
    """Those that there are records for.

    Args:
      rows: of the sweep.
      paper: its rows, for coefficients that it does not print.
    """
    asked = [row for row in rows if _is_asked(row)]
    published = [row for row in paper if row.method]
    measures = (AVERAGE, WORST, AVERAGE_LOSS, LAMBDA_MAX, TRAIN_RLOSS)
    of = {measure: points(asked, measure) for measure in measures}
    found = (
        _overfitting(asked),
        _correlated(of, AVERAGE, 1, "RLoss is higher in sharper minima", published),
        _correlated(of, WORST, 1, "RLoss is higher in sharper minima", published),
        _tells_less(of, AVERAGE_LOSS),
        _tells_less(of, LAMBDA_MAX),
        _correlated(of, TRAIN_RLOSS, -1, "What fits training examples less is more robust",
                    published),
        *(_early_stopping(asked, measure) for measure in (AVERAGE, WORST)),
        _sharpens(asked),
        _rescaling(asked),
        *(_in_order(asked, measure, published) for measure in (RLOSS, AVERAGE)),
    )  # fmt: skip
    return tuple(finding for finding in found if finding is not None)


def to_markdown(found: Sequence[Finding]) -> str | None:
    """A pipe table and its rules; None without any."""
    if not found:
        return None
    lines = [COLUMNS, *(finding.cells for finding in found)]
    rows = ["| " + " | ".join(map(markdown_escape, line)) + " |" for line in lines]
    rows.insert(1, "| --- " * len(COLUMNS) + "|")
    return "\n".join([*rows, "", *(f"- {markdown_escape(rule)}" for rule in RULES)]) + "\n"


def _is_asked(row: Row) -> bool:
    records = (record for member in row.members for record in member.records)
    if any(record.checkpoint in ELSEWHERE for record in records):
        return False
    adversaries = (member.run.config.get("adversary") for member in row.members)
    return not any(isinstance(of, Mapping) and of.get("name") == "none" for of in adversaries)


def _sign(interval: Interval, sign: int = 1) -> bool | None:
    """Is what lies in it of this sign? None if both signs do."""
    low, high = sorted(sign * end for end in interval)
    return True if low > 0 else False if high < 0 else None


def _overfitting(rows: Sequence[Row]) -> Finding | None:
    """Of the snapshot that held-out examples pick: the lowest RLoss of many is so by chance."""
    baselines = [row for row in rows if row.name == sweep_families.BASELINE]
    if len(baselines) != 1:
        return None
    members = baselines[0].members
    ends = [of for member in members if (of := at_both(member, RLOSS)) and of[1] > 0]
    if not ends:
        return None
    rises = [100 * (end / stopped - 1) for end, stopped in ends]
    end, stopped, mean = (statistics.fmean(of) for of in (*zip(*ends, strict=True), rises))
    text, held = f"{stopped:.2f} (early stopping) to {end:.2f}, {mean:+.0f} %", None
    if len(rises) > 1:
        spread = statistics.stdev(rises)
        text += f"; standard deviation over {len(rises)} seeds {spread:.0f}"
        if len(rises) > 2:
            reach = float(stats.t.ppf(0.975, len(rises) - 1)) * spread / len(rises) ** 0.5
            held = False if mean <= 0 else _sign((mean - reach, mean + reach))
    if left := len(members) - len(ends):
        text += f"; {left} not measured at both ends left out"
    claim = "Robust overfitting: test RLoss of the baseline rises after early stopping"
    return Finding(claim, "1.53 (early stopping) to 3.91, +156 %", text, held)


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
    return Finding(
        f"{claim} (RLoss against {_lower(measure)}, Pearson)",
        _PRINTED.get(measure) or _papers(paper, measure),
        f"{in_words(found.pearson, interval)}, {found.count}",
        None if interval is None else _sign(interval, sign),
    )


def _papers(paper: Sequence[Published], measure: Measured) -> str:
    """Pearson's r of the paper's tables."""
    columns = _IN_TABLES[measure], _IN_TABLES[RLOSS]
    there = [[row.values.get(column) for column in columns] for row in paper]
    pairs_there = [(x, y) for x, y in there if x is not None and y is not None]
    found = correlation(*zip(*pairs_there, strict=True)) if pairs_there else None
    return "" if found is None else f"{in_words(found.pearson, None)} (from Tables D and E)"


def _tells_less(of: Mapping[Measured, Points], other: Measured) -> Finding | None:
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
    return Finding(
        f"{other.title} tells less of RLoss than {_lower(AVERAGE)} (Pearson of the latter, then of"
        " the former)",
        " and ".join(_PRINTED[measure] for measure in (AVERAGE, other))
        if other in _PRINTED
        else "",
        f"{values}; difference of their sizes {in_words(*found)}",
        _sign(found[1]),
    )


def _lower(measure: Measured) -> str:
    return measure.title[0].lower() + measure.title[1:] if measure.title[1].islower() else (
        measure.title
    )  # fmt: skip


def _from_early_stopping(rows: Sequence[Row], measure: Measured) -> dict[int, np.ndarray]:
    """By a method's number, flatness and RLoss at the end minus where early stopping stops."""
    found: dict[int, list[np.ndarray]] = {}
    for pair in pairs(rows, measure):
        found.setdefault(pair.number, []).append(np.subtract(pair.final, pair.best))
    return {number: np.mean(of, axis=0) for number, of in found.items()}


def _early_stopping(rows: Sequence[Row], measure: Measured) -> Finding | None:
    later, helped = _from_early_stopping(rows, measure), _helped(rows)
    flatter = [later[row][0] > 0 for row in helped if row in later]
    if not flatter:
        return None
    count = int(sum(flatter))
    lower = sum(later[row][1] > 0 for row in helped if row in later)
    test = stats.binomtest(count, len(flatter))
    return Finding(
        f"Where early stopping lowers RErr it finds flatter minima ({_lower(measure)})",
        "all methods that it helps" if measure is AVERAGE else "",
        f"of {len(flatter)} such methods (of {len(rows)}) {count} are flatter, {lower} have lower"
        " RLoss",
        None if test.pvalue >= 0.05 else 2 * count > len(flatter),
    )


def _helped(rows: Sequence[Row]) -> list[int]:
    """The numbers of methods whose test RErr is lower where early stopping stops."""
    found = []
    for row in rows:
        ends = [of for member in row.members if (of := at_both(member, RERR)) is not None]
        if ends and statistics.fmean(end - stopped for end, stopped in ends) > 0:
            found.append(row.number)
    return found


def _sharpens(rows: Sequence[Row]) -> Finding | None:
    later = _from_early_stopping(rows, AVERAGE)
    flatness, losses = zip(*later.values(), strict=True) if later else ((), ())
    found = correlation(flatness, losses)
    if found is None:
        return None
    interval = found.pearson_interval
    return Finding(
        "What overfits more gets sharper (changes of RLoss and of average-case flatness from early"
        " stopping to the end, Pearson)",
        "Figs. C and I",
        f"{in_words(found.pearson, interval)}, {found.count}",
        None if interval is None else _sign(interval),
    )


def _rescaling(rows: Sequence[Row]) -> Finding | None:
    found = changes(member for row in rows for member in row.members)
    if found is None:
        return None
    low, high = (end(change.factor for change in found.curved) for end in (min, max))
    return Finding(
        "Rescaled weights of the same function leave flatness as it is, and not the Hessian"
        f" (factors {', '.join(f'{factor:g}' for factor in found.scales)})",
        "flatness changes by a factor of up to 1.12, λmax by 3.9 to 4.0",
        "flatness changes by a factor of up to"
        f" {max(change.factor for change in found.flat):.3g}, λmax by {low:.3g} to {high:.3g}",
        found.only_curved,
    )


def _in_order(rows: Sequence[Row], measure: Measured, paper: Sequence[Published]) -> Finding | None:
    """Methods by a measure, means over seeds, against the paper's own numbers of them."""
    theirs = {row.method: row.values.get(_IN_TABLES[measure]) for row in paper}
    names = {row.number: row.name for row in rows}
    ours = means(points(rows, measure))
    shared = [
        (value, there)
        for number, (value, _) in ours.items()
        if (there := theirs.get(names[number])) is not None
    ]
    found = correlation(*zip(*shared, strict=True)) if shared else None
    if found is None:
        return None
    interval = found.spearman_interval
    return Finding(
        f"Methods are in the paper's order ({_lower(measure)}, Spearman of ours and the paper's)",
        "",
        f"{in_words(found.spearman, interval)}, {found.count}",
        None if interval is None else _sign(interval),
    )
