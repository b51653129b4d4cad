"""The columns of Tables B to E of the supplement, and which values of records they are."""

import dataclasses

from rfm.reporting.sweep_rows import Place


@dataclasses.dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
      key: its name in ``paper.csv``.
      measure: the label of its measure in `rfm.reporting.tables.MEASURES`.
      of: "test", "train", or "stop": on test, of the snapshot that early stopping picks.
      part: of the table, the title above.
      title: below that, what is measured.
      how: below that, e.g. "PGD" or "average"; "" of Err and Loss.
    """

    key: str
    measure: str
    of: str
    part: str
    title: str
    how: str = ""

    @property
    def place(self) -> Place:
        """Where its mean is among those of a checkpoint."""
        return self.measure, "test" if self.of == "stop" else self.of

    @property
    def percent(self) -> bool:
        return "Err" in self.measure

    @property
    def decimals(self) -> int:
        """Of the paper's numbers."""
        return 1 if "RErr" in self.measure else 2

    @property
    def text(self) -> str:
        """In a sentence: "RErr (AA)"."""
        return f"{self.title} ({self.how})" if self.how else self.title

    @property
    def full_text(self) -> str:
        """For a table without titles above: "RErr (AA), test", "flatness of Loss, worst"."""
        if self.part == "Flatness":
            return f"flatness of {self.title}, {self.how}"
        return f"{self.text}, {self.of}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """One table.

    Attributes:
      letter: in the supplement.
      title: what is in it.
      columns: from left to right.
      sorted_by: the keys of columns, the first of which that is measured; () for by name.
      zoo: is it of the networks of the zoo?
      grouped: by robustness?
    """

    letter: str
    title: str
    columns: tuple[Column, ...]
    sorted_by: tuple[str, ...] = ()
    zoo: bool = False
    grouped: bool = False

    def column(self, key: str) -> Column:
        """By its key."""
        return next(column for column in self.columns if column.key == key)

    @property
    def parts(self) -> dict[str, int]:
        """Titles above, and of how many columns."""
        counts: dict[str, int] = {}
        for column in self.columns:
            counts[column.part] = counts.get(column.part, 0) + 1
        return counts


_PARTS = {"test": "Test robustness", "train": "Train robustness", "stop": "Early stopping"}


def _columns(of: str, clean: str, robust: str) -> tuple[Column, ...]:
    """Without an attack, by PGD and by AutoAttack; of early stopping the latter two."""
    found = (
        Column(f"{clean.lower()}_{of}", clean, of, _PARTS[of], clean),
        Column(f"{robust.lower()}_pgd_{of}", robust, of, _PARTS[of], robust, "PGD"),
        Column(f"{robust.lower()}_aa_{of}", f"{robust} (AA)", of, _PARTS[of], robust, "AA"),
    )
    return found[1:] if of == "stop" else found


def _flatness(case: str, loss: str) -> Column:
    measure = f"{case.capitalize()}-case flatness of {loss}"
    return Column(f"{case}_{loss.lower()}", measure, "test", "Flatness", loss, case)


_ERRORS = (*_columns("test", "Err", "RErr"), *_columns("train", "Err", "RErr"))
_LOSSES = (*_columns("test", "Loss", "RLoss"), *_columns("train", "Loss", "RLoss"))
_CLEAN = (_flatness("average", "Loss"), _flatness("worst", "Loss"))
_ROBUST = (_flatness("average", "RLoss"), _flatness("worst", "RLoss"))

TABLES = (
    Layout("B", "networks of RobustBench: Err, RErr and flatness of RLoss", (*_ERRORS, *_ROBUST),
           zoo=True),
    Layout("C", "networks of RobustBench: Loss, RLoss and flatness of RLoss", (*_LOSSES, *_ROBUST),
           zoo=True),
    Layout("D", "Err, RErr and flatness of Loss and RLoss",
           (*_ERRORS, *_columns("stop", "Err", "RErr"), *_CLEAN, *_ROBUST),
           ("rerr_aa_test", "rerr_pgd_test"), grouped=True),
    Layout("E", "Loss and RLoss", (*_LOSSES, *_columns("stop", "Loss", "RLoss")),
           ("rloss_pgd_test",)),
)  # fmt: skip
"""As in the supplement. Its Tables B and C are sorted by name, whatever their header says."""
