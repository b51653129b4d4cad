"""Tables B to E as values: lines of ours and of the paper, however they are written down."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Protocol

from rfm.reporting.paper_columns import Column, Layout
from rfm.reporting.paper_protocol import Choice
from rfm.reporting.sweep_rows import Mean, Row

LIMITS = (57.0, 60.0, 62.8)
"""RErr (AA) up to which robustness is good, average and poor (Section H); the last is AT's."""
GROUPS = ("good", "average", "poor", "worse")


class Published(Protocol):
    """A row of the paper: a method, or a network of the zoo, and its values by column."""

    @property
    def method(self) -> str: ...
    @property
    def zoo(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def values(self) -> Mapping[str, float | None]: ...


@dataclasses.dataclass(frozen=True)
class Line:
    """A method or network.

    Attributes:
      name: as `rfm` calls it; of a network as in ``paper.csv``, "zoo:NAME".
      row: its runs, None if there are none.
      published: the paper's row, None if it has none.
      means: ours, by the key of a column.
      group: of robustness, "" where there are no groups.
    """

    name: str
    row: Row | None
    published: Published | None
    means: Mapping[str, Mean] = dataclasses.field(default_factory=dict)
    group: str = ""

    @property
    def apart(self) -> tuple[str, ...]:
        """What tells it from other lines of the same name."""
        return () if self.row is None else self.row.apart

    @property
    def runs(self) -> int:
        return 0 if self.row is None else len(self.row.members)

    def value(self, key: str) -> float | None:
        """Ours."""
        return self.means[key].value if key in self.means else None

    def papers(self, key: str) -> float | None:
        """The paper's."""
        return None if self.published is None else self.published.values.get(key)


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """One of the Tables B to E.

    Attributes:
      layout: letter, title and columns.
      lines: of runs, sorted.
      absent: of the paper, without a run, in its order.
      limits: of the groups, () where there are none.
      notes: what the numbers are.
      differences: what keeps them from being compared with the paper's.
      alike: the titles of what was compared and is as in the paper.
    """

    layout: Layout
    lines: tuple[Line, ...]
    absent: tuple[Line, ...] = ()
    limits: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    differences: tuple[Choice, ...] = ()
    alike: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"Table {self.layout.letter}: {self.layout.title}"

    @property
    def seeds(self) -> bool:
        """Are there several runs of anything?"""
        return any(mean.runs > 1 for line in self.lines for mean in line.means.values())

    @property
    def sorted_by(self) -> Column | None:
        """The column that lines are sorted by, None if by name."""
        return sorting(self.layout, self.lines)

    def group_title(self, group: str) -> str:
        """A group and its limits: "average: RErr (AA) above 57.0 up to 60.0 %"."""
        number, by = GROUPS.index(group), self.sorted_by
        assert by is not None, "groups are by the column that lines are sorted by"
        above = f" above {self.limits[number - 1]:.1f}" if number else ""
        up_to = f" up to {self.limits[number]:.1f}" if number < len(self.limits) else ""
        return f"{group}: {by.text}{above}{up_to} %"

    def cell(self, line: Line, column: Column) -> "Cell":
        """Ours and the paper's, as texts."""
        mean, papers = line.means.get(column.key), line.papers(column.key)
        published = "" if papers is None else f"{papers:.{column.decimals}f}"
        if mean is None:
            return Cell("", "", "", published)
        decimals = mean.decimals if column.percent else column.decimals
        spread = mean.deviation if self.seeds else mean.standard_error
        return Cell(
            f"{mean.value:.{decimals}f}",
            "" if spread is None else f"{spread:.{decimals}f}",
            "" if mean.runs == line.runs else f"({mean.runs})",
            published,
        )


@dataclasses.dataclass(frozen=True)
class Cell:
    """Texts, each "" where there is nothing.

    Attributes:
      ours: the mean.
      spread: what stands after ±.
      runs: of how many runs, in parentheses, if not of all.
      papers: the paper's.
    """

    ours: str
    spread: str
    runs: str
    papers: str


def sorting(layout: Layout, lines: Iterable[Line]) -> Column | None:
    """The column to sort by: of those of the layout the first that all measured lines have.

    That is RErr by AutoAttack, else by PGD, of Table D, and RLoss by PGD of Table E; None of
    Tables B and C, which are by name.
    """
    measured = [line for line in lines if any(key in line.means for key in layout.sorted_by)]
    found = [key for key in layout.sorted_by if all(key in line.means for line in measured)]
    return layout.column((found or layout.sorted_by[-1:])[0]) if layout.sorted_by else None
