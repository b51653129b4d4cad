"""The results table: one row model, four ways to write it down.

Rows are the measures of Tables D and E of the supplement, columns the splits of each
evaluated checkpoint. A cell holds the numbers of one record, or nothing: what was not
measured stays open, and nothing is computed that a record does not say::

    table = rfm.reporting.table(rfm.reporting.read_run("runs/at").records)
    rich.print(table.to_rich())               # the terminal
    table.to_markdown(), table.to_csv()       # a README, a spreadsheet
"""

import csv
import dataclasses
import html
import io
import re
from collections.abc import Iterable, Sequence

import rich.box
import rich.table
import rich.text

from rfm.reporting.caption import caption
from rfm.reporting.records import Record, Value

CSV_HEADER = (
    *("run", "measure", "unit", "split", "checkpoint", "step", "epoch"),
    *("value", "standard_error", "examples"),
)
OPEN = "–"
"""What an open cell shows."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """One row: which value of which record, `record` with a place for the split.

    An optional row is left out of tables in which nothing has been measured for it.
    """

    label: str
    record: str
    value: str
    percent: bool = False
    optional: bool = False

    @property
    def title(self) -> str:
        return f"{self.label} (%)" if self.percent else self.label


MEASURES = (
    Measure("Err", "evaluation-{}", "err", percent=True),
    Measure("RErr", "evaluation-{}", "rerr", percent=True),
    Measure("RErr (AA)", "attack-autoattack-{}", "rerr", percent=True, optional=True),
    Measure("RErr (AA+)", "attack-autoattack-plus-{}", "rerr", percent=True, optional=True),
    Measure("Loss", "evaluation-{}", "loss"),
    Measure("RLoss", "evaluation-{}", "rloss"),
    Measure("RLoss (AA)", "attack-autoattack-{}", "rloss", optional=True),
    Measure("RLoss (AA+)", "attack-autoattack-plus-{}", "rloss", optional=True),
    Measure("Average-case flatness of Loss", "flatness-average-loss-{}", "flatness"),
    Measure("Average-case flatness of RLoss", "flatness-average-rloss-{}", "flatness"),
    Measure("Worst-case flatness of Loss", "flatness-worst-loss-{}", "flatness"),
    Measure("Worst-case flatness of RLoss", "flatness-worst-rloss-{}", "flatness"),
    Measure("λmax of Loss", "curvature-loss-{}", "lambda_max", optional=True),
    Measure("λmax of RLoss", "curvature-rloss-{}", "lambda_max", optional=True),
)
SPLITS = ("test", "train")


@dataclasses.dataclass(frozen=True)
class Column:
    """A split of a checkpoint; `where` says which where a table has several."""

    split: str
    step: int
    epoch: float | None
    checkpoint: str
    where: str = ""

    @property
    def title(self) -> str:
        return f"{self.split.capitalize()}{self.where and f' ({self.where})'}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value in the unit of its row: percent, or nats."""

    value: float | None = None
    standard_error: float | None = None
    examples: int | None = None
    decimals: int = 3

    @property
    def number(self) -> str:
        """The value alone."""
        return OPEN if self.value is None else f"{self.value:.{self.decimals}f}"

    @property
    def text(self) -> str:
        """The value with its standard error, where it has one."""
        if self.value is None or self.standard_error is None:
            return self.number
        return f"{self.number} ± {self.standard_error:.{self.decimals}f}"


def _cell(value: Value, percent: bool) -> Cell:
    """Percent get the digit that one example moves, losses three decimals."""
    if value.value is None:
        return Cell()
    if not percent:
        return Cell(value.value, value.standard_error, value.examples)
    error = value.standard_error
    return Cell(
        value=100 * value.value,
        standard_error=None if error is None else 100 * error,
        examples=value.examples,
        decimals=2 if (value.examples or 0) >= 10_000 else 1,
    )


def unit(measure: Measure) -> str:
    """What its numbers are in."""
    if measure.record.startswith("curvature"):
        return "nats per squared weight"
    return "percent" if measure.percent else "nats"


def markdown_escape(text: str) -> str:
    """`text` as Markdown shows it literally."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)


@dataclasses.dataclass(frozen=True)
class ResultsTable:
    """The table of one run.

    Attributes:
      name: of the run.
      columns: splits, the latest checkpoint first.
      rows: measures with one cell per column.
      caption: the protocol, one line per subject.
    """

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Measure, tuple[Cell, ...]], ...]
    caption: tuple[str, ...]

    def cell(self, label: str, split: str) -> Cell:
        """The cell of a measure for the latest checkpoint.

        Raises:
          KeyError: no measure is called `label`, or `split` is not "test" or "train".
        """
        row = {measure.label: cells for measure, cells in self.rows}[label]
        return row[{"test": 0, "train": 1}[split]]

    @property
    def errors(self) -> int:
        """How many rows, the first ones, are errors and losses and not flatness."""
        around = ("flatness", "curvature")
        return sum(not measure.record.startswith(around) for measure, _ in self.rows)

    def to_rich(self) -> rich.table.Table:
        """For the terminal; texts are literal, never markup."""
        table = rich.table.Table(
            title=rich.text.Text(f"Results of {self.name}", style="bold"),
            title_justify="left",
            caption=rich.text.Text("\n".join(self.caption), style="dim"),
            caption_justify="left",
            box=rich.box.SIMPLE_HEAD,
        )
        table.add_column()
        for column in self.columns:
            title = rich.text.Text(column.split.capitalize())
            title.append(f"\n{column.where}" if column.where else "", style="dim")
            table.add_column(title, justify="right")
        for position, (measure, cells) in enumerate(self.rows):
            table.add_row(
                rich.text.Text(measure.title),
                *(rich.text.Text(cell.text) for cell in cells),
                end_section=position + 1 == self.errors,
            )
        return table

    def to_markdown(self) -> str:
        """A heading, a pipe table, and the caption as a list."""
        header = ["", *(markdown_escape(column.title) for column in self.columns)]
        lines = [
            f"# Results of {markdown_escape(self.name)}",
            "",
            "| " + " | ".join(header) + " |",
            "|:--" + "|--:" * len(self.columns) + "|",
            *(
                "| " + " | ".join([row.title, *(cell.text for cell in cells)]) + " |"
                for row, cells in self.rows
            ),
            "",
            *(f"- {markdown_escape(line)}" for line in self.caption),
        ]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """One line per measured cell, numbers unrounded, in the unit of the row."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_HEADER)
        for measure, cells in self.rows:
            for column, cell in zip(self.columns, cells, strict=True):
                if cell.value is None:
                    continue
                error = cell.standard_error
                writer.writerow(
                    [
                        *(self.name, measure.label, unit(measure), column.split, column.checkpoint),
                        *(column.step, "" if column.epoch is None else column.epoch),
                        *(f"{cell.value:.9g}", "" if error is None else f"{error:.9g}"),
                        "" if cell.examples is None else cell.examples,
                    ]
                )
        return text.getvalue()

    def to_html(self) -> str:
        """A ``<table>`` without the caption, everything escaped."""
        titles = "".join(
            f'<th scope="col">{html.escape(column.split.capitalize())}'
            + (f" <small>{html.escape(column.where)}</small>" if column.where else "")
            + "</th>"
            for column in self.columns
        )
        groups = (self.rows[: self.errors], self.rows[self.errors :])
        bodies = "\n".join(
            "<tbody>\n"
            + "".join(
                f'<tr><th scope="row">{html.escape(measure.title)}</th>'
                + "".join(f"<td>{html.escape(cell.text)}</td>" for cell in cells)
                + "</tr>\n"
                for measure, cells in rows
            )
            + "</tbody>"
            for rows in groups
        )
        return f"<table>\n<thead><tr><td></td>{titles}</tr></thead>\n{bodies}\n</table>"


def _columns(records: Sequence[Record]) -> tuple[Column, ...]:
    columns = []
    steps = sorted({record.step for record in records}, reverse=True)
    for step in steps:
        there = [record for record in records if record.step == step]
        names = sorted({record.checkpoint for record in there if record.checkpoint})
        checkpoint = " and ".join(names)
        epoch = next((r.epoch for r in there if r.epoch is not None), None)
        place = f"step {step}" if epoch is None else f"epoch {epoch:g}"
        where = f"{checkpoint}, {place}" if checkpoint else place
        columns += [
            Column(split, step, epoch, checkpoint, where if len(steps) > 1 else "")
            for split in SPLITS
        ]
    return tuple(columns)


def table(records: Iterable[Record]) -> ResultsTable | None:
    """The results of all records that are not snapshots, None if there are none."""
    records = [record for record in records if not record.snapshot and not record.variant]
    if not records:
        return None
    by_place = {(record.step, record.name): record for record in records}
    columns = _columns(records)

    def cell(measure: Measure, column: Column) -> Cell:
        record = by_place.get((column.step, measure.record.format(column.split)))
        return _cell(record.value(measure.value), measure.percent) if record else Cell()

    names = {record.name for record in records}
    measures = [
        measure
        for measure in MEASURES
        if not measure.optional or any(measure.record.format(split) in names for split in SPLITS)
    ]
    return ResultsTable(
        name=next((record.run for record in records if record.run), "this run"),
        columns=columns,
        rows=tuple(
            (measure, tuple(cell(measure, column) for column in columns)) for measure in measures
        ),
        caption=caption(records),
    )
