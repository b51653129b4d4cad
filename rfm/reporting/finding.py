"""One of the paper's findings, asked of other runs, and what decides it."""

import dataclasses
from collections.abc import Iterable

from scipy import stats

from rfm.reporting.correlation import Interval
from rfm.reporting.sweep_points import Measured
from rfm.reporting.tables import OPEN


@dataclasses.dataclass(frozen=True)
class Finding:
    """One of the paper's.

    Attributes:
      claim: what it says.
      paper: the number that the paper has for it.
      here: that of these runs.
      held: is it so here? None if these runs do not decide.
      weaker: is it, but by less than half of the paper's number?
    """

    claim: str
    paper: str
    here: str
    held: bool | None
    weaker: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """Of a table's line."""
        verdict = {True: "yes", False: "no", None: "not decided"}[self.held]
        verdict += ", but weaker" if self.weaker else ""
        return self.claim, self.paper or OPEN, self.here, verdict


def by_sign(interval: Interval | None, sign: int = 1) -> bool | None:
    """Is what lies in it of this sign? None if both signs do, or without an interval."""
    if interval is None:
        return None
    low, high = sorted(sign * end for end in interval)
    return True if low > 0 else False if high < 0 else None


def by_count(of: Iterable[bool]) -> bool | None:
    """Is it so of most, by a two-sided binomial test at 5 %? None if that does not decide."""
    answers = list(of)
    if stats.binomtest(sum(answers), len(answers)).pvalue >= 0.05:
        return None
    return 2 * sum(answers) > len(answers)


def is_weaker(interval: Interval | None, papers: float) -> bool:
    """Is all of it of the paper's sign, and below half of it?"""
    if interval is None:
        return False
    low, high = sorted(end / papers for end in interval)
    return low > 0 and high < 0.5


def in_lower_case(measure: Measured) -> str:
    """The title of a measure within a sentence."""
    title = measure.title
    return title[0].lower() + title[1:] if title[1].islower() else title
