"""The table over methods, four ways to write it down.

Its columns are the measures of the table of a run on test and train, in three parts: errors,
losses, and what is around the weights. A column in which nothing was measured is left out
unless the rest of its part was, on test; a cell without a value stays open.
"""

import csv
import dataclasses
import html
import io
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
import rich.text

from rfm.reporting.caption import all_machines, measures
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_rows import Mean, Row, rows, sorted_by
from rfm.reporting.sweep_settings import OF_TRAINING
from rfm.reporting.tables import MEASURES, OPEN, SPLITS, Measure, markdown_escape, unit

CSV_HEADER = (
    *("method", "apart", "measure", "unit", "split", "mean", "standard_deviation"),
    *("standard_error", "runs", "runs_of_method"),
)


_GAP = 2  # between columns on a terminal


@dataclasses.dataclass(frozen=True)
class Part:
    """Columns that stand together under a title."""

    title: str
    columns: tuple[tuple[Measure, str], ...]


@dataclasses.dataclass(frozen=True)
class SweepTable:
    """Methods by measures.

    Attributes:
      rows: methods, sorted.
      parts: columns.
      caption: what the numbers are and how they were measured, a line each.
    """

    rows: tuple[Row, ...]
    parts: tuple[Part, ...]
    caption: tuple[str, ...]

    def text(self, row: Row, measure: Measure, split: str) -> str:
        """A cell: "61.0 ± 1.5", and in parentheses how many runs if not all of the row have it."""
        mean = row.means.get((measure.label, split))
        if mean is None:
            return OPEN
        spread = mean.deviation if _seeds(self.rows) else mean.standard_error
        text = f"{mean.value:.{mean.decimals}f}"
        if spread is not None:
            text += f" ± {spread:.{mean.decimals}f}"
        return text if mean.runs == len(row.members) else f"{text} ({mean.runs})"

    def _lines(self, part: Part) -> list[tuple[tuple[str, str, str], tuple[str, ...]]]:
        """Number, method and runs, and the cells, of each row."""
        return [
            (
                (str(row.number), row.title, str(len(row.members))),
                tuple(self.text(row, measure, split) for measure, split in part.columns),
            )
            for row in self.rows
        ]

    def to_rich(self, width: int = 10_000) -> list[rich.table.Table]:
        """For a terminal of so many columns, each part as one table or, if need be, several.

        Texts are literal, never markup.
        """
        return [
            self._part_rich(part, columns)
            for part in self.parts
            for columns in _fitting(self._lines(part), part, width)
        ]

    def _part_rich(self, part: Part, columns: Sequence[int]) -> rich.table.Table:
        table = rich.table.Table(
            title=rich.text.Text(part.title, style="bold"),
            title_justify="left",
            box=rich.box.SIMPLE_HEAD,
            padding=(0, _GAP - 1, 0, 0),
        )
        for name in ("#", "method", "runs"):
            justify: rich.console.JustifyMethod = "left" if name == "method" else "right"
            table.add_column(name, justify=justify, overflow="fold")
        for measure, split in (part.columns[column] for column in columns):
            title = rich.text.Text(f"{_short(measure)}\n")
            title.append(split, style="dim")
            table.add_column(title, justify="right", no_wrap=True)
        for head, cells in self._lines(part):
            table.add_row(*map(rich.text.Text, (*head, *(cells[column] for column in columns))))
        return table

    def to_markdown(self) -> str:
        """A heading and a pipe table for each part, and the caption as a list."""
        lines = ["# Results"]
        for part in self.parts:
            titles = (f"{_short(measure)}, {split}" for measure, split in part.columns)
            lines += [
                *("", f"## {part.title}", ""),
                f"| # | method | runs | {' | '.join(titles)} |",
                "|--:|:--|--:" + "|--:" * len(part.columns) + "|",
                *(
                    f"| {' | '.join(map(markdown_escape, (*head, *cells)))} |"
                    for head, cells in self._lines(part)
                ),
            ]
        lines += ["", *(f"- {markdown_escape(line)}" for line in self.caption)]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """One line per measured cell, numbers unrounded, in percent or nats."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_HEADER)
        for row in self.rows:
            for part in self.parts:
                for measure, split in part.columns:
                    mean = row.means.get((measure.label, split))
                    if mean is not None:
                        head = (row.name, "; ".join(row.apart), measure.label, unit(measure))
                        writer.writerow([*head, split, *_numbers(mean), len(row.members)])
        return text.getvalue()

    def to_html(self) -> dict[str, str]:
        """A ``<table>`` for each part by its title, everything escaped."""
        return {part.title: self._part_html(part) for part in self.parts}

    def _part_html(self, part: Part) -> str:
        titles = "".join(
            f'<th scope="col">{html.escape(_short(measure))} <small>{split}</small></th>'
            for measure, split in part.columns
        )
        body = ""
        for row, ((number, _, runs), cells) in zip(self.rows, self._lines(part), strict=True):
            apart = "".join(f"<small>{html.escape(text)}</small>" for text in row.apart)
            numbers = "".join(f"<td>{html.escape(cell)}</td>" for cell in (runs, *cells))
            body += (
                f'<tr><td class="number">{number}</td>'
                f'<th scope="row">{html.escape(row.name)}{apart}</th>{numbers}</tr>\n'
            )
        head = f'<th scope="col">#</th><th scope="col">method</th><th scope="col">runs</th>{titles}'
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def sweep_table(members: Sequence[Member]) -> SweepTable:
    """The methods of a sweep."""
    found = rows(members)
    return SweepTable(found, _parts(found), _caption(found))


def _parts(found: Sequence[Row]) -> tuple[Part, ...]:
    around = ("flatness", "curvature")
    parts = (
        ("Errors (%)", [m for m in MEASURES if m.percent]),
        ("Losses", [m for m in MEASURES if not (m.percent or m.record.startswith(around))]),
        ("Flatness and curvature", [m for m in MEASURES if m.record.startswith(around)]),
    )
    measured = {place for row in found for place in row.means}

    def columns(of_part: Sequence[Measure]) -> tuple[tuple[Measure, str], ...]:
        return tuple(
            (measure, split)
            for split in SPLITS
            for measure in of_part
            if (measure.label, split) in measured or (split == "test" and not measure.optional)
        )

    return tuple(
        Part(title, columns(of_part))
        for title, of_part in parts
        if any(measure.label == label for measure in of_part for label, _ in measured)
    )


def _fitting(
    lines: Sequence[tuple[tuple[str, ...], tuple[str, ...]]], part: Part, width: int
) -> list[list[int]]:
    """The columns of a part, so many at a time as fit beside what is left of them."""
    left = max(sum(len(text) + _GAP for text in head) for head, _ in lines) + _GAP
    room = max(width - left, width // 3)  # the names of methods can be wrapped
    tables: list[list[int]] = [[]]
    used = 0
    for column, (measure, split) in enumerate(part.columns):
        texts = (_short(measure), split, *(cells[column] for _, cells in lines))
        needed = max(map(len, texts)) + _GAP
        if tables[-1] and used + needed > room:
            tables.append([])
            used = 0
        tables[-1].append(column)
        used += needed
    return tables


def _caption(found: Sequence[Row]) -> tuple[str, ...]:
    records = [record for row in found for member in row.members for record in member.records]
    if not records:
        return ()
    if _seeds(found):
        spread = (
            "± is one standard deviation over the runs of a method, its seeds (n − 1); a method"
            " of one run has none."
        )
    else:
        spread = "Every method has one run: ± is one standard error over its examples."
    lines = [f"{spread} – was not measured. Lower is better (eigenvalues apart)."]
    if any(m.runs < len(row.members) for row in found for m in row.means.values()):
        lines.append("In parentheses: of how many runs, where not all of a method have the value.")
    label = sorted_by(found)
    lines.append(f"Sorted by {label} on test, lowest first.")
    lines += measures(records)
    checkpoints = dict.fromkeys(
        fields["checkpoint"]
        for row in found
        for scope, fields in row.settings.items()
        if scope not in OF_TRAINING and "checkpoint" in fields
    )
    lines.append(f"Checkpoint: {', '.join(checkpoints)}.")
    return (*lines, *filter(None, [all_machines(records)]))


def _seeds(found: Sequence[Row]) -> bool:
    """Has any method several values of anything?"""
    return any(mean.runs > 1 for row in found for mean in row.means.values())


def _short(measure: Measure) -> str:
    """The title of a column."""
    return measure.label.replace("-case flatness of ", ", ")


def _numbers(mean: Mean) -> tuple[str | int, ...]:
    numbers = (mean.value, mean.deviation, mean.standard_error)
    return (*("" if number is None else f"{number:.9g}" for number in numbers), mean.runs)
