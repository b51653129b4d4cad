"""Tables B to E as CSV, Markdown and HTML.

Of a method there is a line of ours and, below it, one of the paper's in italics; in HTML both
are in one row, so that it can be sorted.
"""

import csv
import html
import io
from collections.abc import Iterable

from rfm.reporting.paper_columns import Column
from rfm.reporting.paper_rows import Cell, Line, PaperTable
from rfm.reporting.tables import OPEN, markdown_escape

CSV_HEADER = (
    *("table", "method", "apart", "group", "column", "unit"),
    *("mean", "standard_deviation", "standard_error", "runs", "runs_of_method", "paper"),
)

NOT_AS_IN_THE_PAPER = "Not as in the paper, so that the numbers cannot be compared one to one"


def to_csv(tables: Iterable[PaperTable]) -> str:
    """A line for each cell of ours or of the paper, unrounded, in percent or nats.

    Methods of the paper without a run are there, too: nothing but their last column.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for table in tables:
        for line in (*table.lines, *table.absent):
            for column in table.layout.columns:
                mean, papers = line.means.get(column.key), line.papers(column.key)
                if mean is None and papers is None:
                    continue
                numbers = (mean.value, mean.deviation, mean.standard_error) if mean else (None,) * 3
                writer.writerow(
                    [
                        *(table.layout.letter, line.name, "; ".join(line.apart), line.group),
                        *(column.key, "percent" if column.percent else "nats"),
                        *map(_number, numbers),
                        *(mean.runs if mean else 0, line.runs, _number(papers)),
                    ]
                )
    return text.getvalue()


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:.9g}"


def to_markdown(tables: Iterable[PaperTable], *, absent: bool = False) -> str:
    """A heading, a pipe table and a list of notes for each.

    Args:
      tables: some of Tables B to E.
      absent: with the paper's rows that have no run, too.
    """
    lines = ["# Beside the paper"]
    for table in tables:
        columns = table.layout.columns
        lines += [
            *("", f"## {table.title}", ""),
            f"| # | method | {' | '.join(column.full_text for column in columns)} |",
            "|--:|:--" + "|--:" * len(columns) + "|",
        ]
        group = ""
        for line in (*table.lines, *(table.absent if absent else ())):
            if line.group and line.group != group:
                lines.append(f"| | **{table.group_title(line.group)}** |" + " |" * len(columns))
                group = line.group
            lines += _markdown(table, line)
        lines += ["", *(f"- {markdown_escape(note)}" for note in table.notes)]
        if table.alike:
            lines.append(f"- As in the paper: {markdown_escape(', '.join(table.alike))}.")
        if table.differences:
            lines += [
                *("", f"{NOT_AS_IN_THE_PAPER}:", ""),
                *("| | here | there |", "|:--|:--|:--|"),
                *(
                    f"| {' | '.join(map(markdown_escape, (of.title, of.ours, of.papers)))} |"
                    for of in table.differences
                ),
            ]
    return "\n".join(lines) + "\n"


def _markdown(table: PaperTable, line: Line) -> list[str]:
    cells = [table.cell(line, column) for column in table.layout.columns]
    found = []
    if line.row is not None:
        ours = " | ".join(text_of(cell) for cell in cells)
        title = f"{', '.join((line.row.title, runs(line)))}"
        found.append(f"| {line.row.number} | {markdown_escape(title)} | {ours} |")
    if line.published is not None:
        papers = " | ".join(f"*{cell.papers}*" if cell.papers else OPEN for cell in cells)
        title = f"*paper: {markdown_escape(line.published.title)}*"
        found.append(f"| | {title} | {papers} |")
    return found


def runs(line: Line) -> str:
    """How many, in words."""
    return f"{line.runs} run{'' if line.runs == 1 else 's'}"


def text_of(cell: Cell) -> str:
    """Ours: "61.0 ± 1.5 (2)"."""
    spread = f"± {cell.spread}" if cell.spread else ""
    return " ".join(filter(None, (cell.ours or OPEN, spread, cell.runs)))


def to_html(table: PaperTable) -> str:
    """A ``<table>`` without title and notes, everything escaped.

    The paper's rows without a run are in a ``<tbody class="absent">`` of their own. A head's
    button sorts by its column, ``data-value`` being what by.
    """
    layout = table.layout
    columns = layout.columns
    first = {part: [c.part for c in columns].index(part) for part in layout.parts}
    parts = "".join(
        f'<th scope="colgroup" colspan="{count}" class="first">{html.escape(part)}</th>'
        for part, count in layout.parts.items()
    )
    titles = "".join(
        f'<th scope="col"{_first(position in first.values())}>'
        f'<button type="button">{column.title}<small>{column.how}</small></button></th>'
        for position, column in enumerate(columns)
    )
    body, group = "", ""
    for line in table.lines:
        if line.group != group:
            group = line.group
            title = html.escape(table.group_title(group)) if group else "no group: not measured"
            body += (
                f'<tr class="group"><th scope="rowgroup" colspan="{len(columns) + 2}">'
                f"<span>{title}</span></th></tr>\n"
            )
        body += _html_row(table, line, first.values())
    missing = "".join(_html_row(table, line, first.values()) for line in table.absent)
    absent = f'<tbody class="absent">\n{missing}</tbody>\n' if missing else ""
    return (
        f'<table class="beside">\n<thead>\n<tr><td colspan="2"></td>{parts}</tr>\n'
        '<tr><th scope="col"><button type="button">#</button></th>'
        f'<th scope="col"><button type="button">method</button></th>{titles}</tr>\n</thead>\n'
        f"<tbody>\n{body}</tbody>\n{absent}</table>"
    )


def _first(is_first: bool) -> str:
    return ' class="first"' if is_first else ""


def _html_row(table: PaperTable, line: Line, first: Iterable[int]) -> str:
    cells = "".join(
        _html_cell(table, line, column, position in first)
        for position, column in enumerate(table.layout.columns)
    )
    number = "" if line.row is None else str(line.row.number)
    names = _html_names(line)
    return (
        f'<tr><td data-value="{number}">{number}</td>'
        f'<th scope="row" data-value="{html.escape(line.name)}">{names}</th>{cells}</tr>\n'
    )


def _html_names(line: Line) -> str:
    """Ours, and the paper's on the line of its numbers."""
    names = ""
    if line.row is not None:
        names = f'{html.escape(line.name)} <span class="runs">{runs(line)}</span>'
    if line.published is not None:
        title = html.escape(line.published.title)
        if line.row is None:
            title += f' <span class="runs">{html.escape(line.name)}</span>'
        names += f'<em><span class="unseen">paper: </span>{title}</em>'
    return names + "".join(f"<small>{html.escape(text)}</small>" for text in line.apart)


def _html_cell(table: PaperTable, line: Line, column: Column, is_first: bool) -> str:
    cell = table.cell(line, column)
    of_group = _first(is_first)
    value = line.value(column.key)
    value = line.papers(column.key) if line.row is None else value
    ours = "" if line.row is None else f"<span>{cell.ours or OPEN}</span>"
    more = " ".join(filter(None, (f"± {cell.spread}" if cell.spread else "", cell.runs)))
    ours += f" <small>{more}</small>" if more else ""
    papers = f"<em>{cell.papers or OPEN}</em>" if line.published is not None else ""
    return f'<td{of_group} data-value="{_number(value)}">{ours}{papers}</td>'
