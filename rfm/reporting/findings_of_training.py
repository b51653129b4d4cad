"""The paper's findings about training: robust overfitting, early stopping, flatness through it.

RLoss rises in robust overfitting, and minima get sharper; early stopping finds flatter ones.
"""

import statistics
from collections.abc import Sequence

import numpy as np
from scipy import stats

from rfm.reporting import scatter, sweep_families
from rfm.reporting.correlation import correlation, in_words
from rfm.reporting.finding import Finding, by_count, by_sign, in_lower_case, is_weaker
from rfm.reporting.sweep_groups import at_both, pairs
from rfm.reporting.sweep_points import AVERAGE, RLOSS, WORST, Measured
from rfm.reporting.sweep_rows import Row
from rfm.reporting.sweep_snapshots import Course

_PAPERS_RISE = 156  # percent, of the baseline in Table E
_OVERFITS = 1.2  # RLoss at the end over that at early stopping
_CASES = (("average", AVERAGE), ("worst", WORST))


def overfitting(rows: Sequence[Row]) -> Finding | None:
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
    weaker = False
    if len(rises) > 1:
        spread = statistics.stdev(rises)
        text += f"; standard deviation over {len(rises)} seeds {spread:.0f}"
        if len(rises) > 2:
            reach = float(stats.t.ppf(0.975, len(rises) - 1)) * spread / len(rises) ** 0.5
            interval = mean - reach, mean + reach
            held, weaker = by_sign(interval), is_weaker(interval, _PAPERS_RISE)
    if left := len(members) - len(ends):
        text += f"; {left} not measured at both ends left out"
    claim = "Robust overfitting: test RLoss of the baseline rises after early stopping"
    papers = f"1.53 (early stopping) to 3.91, {_PAPERS_RISE:+} %"
    return Finding(claim, papers, text, held, weaker)


def _from_early_stopping(rows: Sequence[Row], measure: Measured) -> dict[int, np.ndarray]:
    """By a method's number, flatness and RLoss at the end minus where early stopping stops."""
    found: dict[int, list[np.ndarray]] = {}
    for pair in pairs(rows, measure):
        found.setdefault(pair.number, []).append(np.subtract(pair.final, pair.best))
    return {number: np.mean(of, axis=0) for number, of in found.items()}


def early_stopping(rows: Sequence[Row], measure: Measured) -> Finding | None:
    """Of the methods whose RLoss it lowers, how many are flatter there."""
    changes = _from_early_stopping(rows, measure)
    helped = [bool(flatter > 0) for flatter, lower in changes.values() if lower > 0]
    others = [bool(flatter > 0) for flatter, lower in changes.values() if lower <= 0]
    if not helped:
        return None
    return Finding(
        f"Where early stopping lowers RLoss it finds flatter minima ({in_lower_case(measure)})",
        "all methods that it helps" if measure is AVERAGE else "",
        f"{sum(helped)} of {len(helped)} such methods are flatter"
        + (f", {sum(others)} of the {len(others)} others" if others else ""),
        by_count(helped),
    )


def sharpens(rows: Sequence[Row]) -> Finding | None:
    """Do RLoss and flatness change together from early stopping to the end, over methods?"""
    later = _from_early_stopping(rows, AVERAGE)
    flatness, losses = zip(*later.values(), strict=True) if later else ((), ())
    found = correlation(flatness, losses)
    if found is None:
        return None
    interval = found.pearson_interval
    return Finding(
        "What overfits more gets sharper (changes of RLoss and of average-case flatness from early"
        " stopping to the end, Pearson)",
        "of single methods: Figs. C and I",
        f"{in_words(found.pearson, interval)}, {found.count}",
        by_sign(interval),
    )


def through_training(courses: Sequence[Course]) -> tuple[Finding, ...]:
    """Of RLoss and flatness over the snapshots of a run, one of each method, by the sign."""
    found = (_through_training(courses, *case) for case in _CASES)
    return tuple(finding for finding in found if finding is not None)


def _through_training(courses: Sequence[Course], case: str, measure: Measured) -> Finding | None:
    overfitted: list[float] = []
    others: list[float] = []
    unfinished = 0
    for course in courses:
        ends, points = at_both(course.member, RLOSS), scatter.snapshots(course.records, case)
        if ends is None or not points:
            continue
        epochs, x, y = zip(*points, strict=True)
        if epochs[-1] != course.member.final[0].epoch:
            unfinished += 1
        elif (found := correlation(x, y)) is not None:
            (overfitted if ends[0] >= _OVERFITS * ends[1] else others).append(found.pearson)
    if not overfitted:
        return None
    above = [coefficient > 0 for coefficient in overfitted]
    text = f"above 0 in {sum(above)} of {len(above)} such methods ({_range(overfitted)})"
    if others:
        text += f", {sum(c > 0 for c in others)} of {len(others)} others ({_range(others)})"
    if unfinished:
        text += f"; {unfinished} not measured to the end left out"
    return Finding(
        "In robust overfitting, where RLoss rises by 20 % or more after early stopping, it is"
        f" higher in sharper snapshots ({in_lower_case(measure)}, Pearson over those of a run)",
        "of single methods: Figs. C and I",
        text,
        by_count(above),
    )


def _range(of: Sequence[float]) -> str:
    ends = dict.fromkeys(in_words(end, None) for end in (min(of), max(of)))
    return " to ".join(ends)
