"""Tables of what is measured beside the main table: radii, rescaled networks, eigenvalues.

Such records are variants: "xi-0.25" at another radius (Fig. E), "scaled-0.5" for a rescaled
network (Fig. F). The functions take the records of one checkpoint.
"""

import dataclasses
import html
import math
import re
from collections.abc import Iterable

import rich.box
import rich.table
from rich.text import Text

from rfm.reporting.protocol import radius
from rfm.reporting.records import Record, Value
from rfm.reporting.tables import MEASURES, OPEN, SPLITS, Measure

_XI = re.compile(r"^flatness-(average|worst)-(loss|rloss)-test(-xi-.*)?$")
_LOSSES = {"rloss": "of RLoss", "loss": "of Loss"}
_SCALED = re.compile(r"-scaled-(.+)$")


@dataclasses.dataclass(frozen=True)
class Table:
    """A small table: the first column is text, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_rich(self) -> rich.table.Table:
        """For the terminal."""
        table = rich.table.Table(
            title=Text(self.title), title_justify="left", box=rich.box.SIMPLE_HEAD
        )
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_html(self) -> str:
        """A ``<table>`` with its title as caption, everything escaped."""
        head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in self.columns)
        rows = "".join(
            f'<tr><th scope="row">{html.escape(row[0])}</th>'
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
            + "</tr>\n"
            for row in self.rows
        )
        return (
            f"<table>\n<caption>{html.escape(self.title)}</caption>\n<thead><tr>{head}</tr></thead>"
            f"\n<tbody>\n{rows}</tbody>\n</table>"
        )


def tables(records: Iterable[Record]) -> tuple[Table, ...]:
    """All of these that there is something for."""
    records = tuple(records)
    made = (details(records), radii(records), rescaled(records), curvature(records))
    return tuple(table for table in made if table is not None)


def details(records: Iterable[Record]) -> Table | None:
    """Every measure with its interval; of flatness the spread over weight draws (Fig. D), too.

    And where the error of flatness comes from: weight draws, or examples.
    """
    records = [r for r in records if not r.variant and not r.snapshot]
    rows = []
    for measure in MEASURES:
        for split in SPLITS:
            named = (r for r in records if r.name == measure.record.format(split))
            for record in named:
                value = record.value(measure.value)
                if value.value is not None and value.interval is not None:
                    rows.append((f"{measure.title}, {split}", *_in_detail(record, measure)))
    columns = ("", "", "95% interval", "std, draws", "± draws", "± examples")
    return Table("In detail: bootstrap intervals", columns, tuple(rows)) if rows else None


def _in_detail(record: Record, measure: Measure) -> tuple[str, ...]:
    value, unit = record.value(measure.value), 100 if measure.percent else 1
    low, high = value.interval or (math.nan, math.nan)
    draws, examples = value.errors or (None, value.standard_error)
    errors = (record.value("std").value, draws or None, examples)
    return (
        f"{unit * (value.value or 0):.3g}",
        f"{unit * low:.3g} to {unit * high:.3g}",
        *(OPEN if error is None else f"{unit * error:.2g}" for error in errors),
    )


def radii(records: Iterable[Record]) -> Table | None:
    """Flatness by radius (Fig. E), if more than the config's were measured."""
    found: dict[str, dict[float, dict[str, Value]]] = {"average": {}, "worst": {}}
    for record in records:
        match, xi = _XI.match(record.name), radius(record)
        if match and xi is not None and not record.snapshot:
            found[match[1]].setdefault(xi, {})[match[2]] = record.value("flatness")
    if not any(len(values) > 1 for values in found.values()):
        return None
    rows = tuple(
        (f"{case} case", f"{xi:g}", *(_text(of.get(loss, Value(None))) for loss in _LOSSES))
        for case, values in found.items()
        for xi, of in sorted(values.items(), key=lambda item: item[0])
    )
    titles = tuple(_LOSSES.values())
    return Table("Flatness by radius (Fig. E), test", ("", "ξ", *titles), rows)


def rescaled(records: Iterable[Record]) -> Table | None:
    """Errors, flatness and lambda_max of rescaled networks (Fig. F, Table A)."""
    by_factor = by_scale(records)
    if not by_factor:
        return None
    columns = {
        "RErr (test)": ("evaluation-test", "rerr"),
        "RErr (train)": ("evaluation-train", "rerr"),
        "worst Loss": ("flatness-worst-loss-test", "flatness"),
        "avg RLoss": ("flatness-average-rloss-test", "flatness"),
        "worst RLoss": ("flatness-worst-rloss-test", "flatness"),
        "λmax": ("curvature-loss-test", "lambda_max"),
        "|λmin|/|λmax|": ("curvature-loss-test", "convexity"),
    }
    rows = []
    for factor, group in sorted(by_factor.items()):
        cells = []
        for title, (name, key) in columns.items():
            value = group[name].value(key) if name in group else Value(None)
            percent = title.startswith("RErr") and value.value is not None
            cells.append(f"{100 * (value.value or 0):.1f} %" if percent else _text(value, 3))
        rows.append((f"× {factor:g}", *cells))
    title = "The same function, convolutions rescaled (Fig. F, Table A)"
    return Table(title, ("scaled", *columns), tuple(rows))


def by_scale(records: Iterable[Record]) -> dict[float, dict[str, Record]]:
    """The records of rescaled networks, by the factor and by the name without it."""
    found: dict[float, dict[str, Record]] = {}
    for record in records:
        if match := _SCALED.search(record.name):
            found.setdefault(float(match[1]), {})[record.name.removesuffix(match[0])] = record
    return found


def curvature(records: Iterable[Record]) -> Table | None:
    """Eigenvalues of the Hessian, None if there are none."""
    found = [r for r in records if r.name.startswith("curvature") and not r.snapshot]
    if not found:
        return None
    rows = []
    for record in found:
        keys = ("lambda_max", "lambda_min", "convexity")
        cells = [_text(record.value(key), 4) for key in keys]
        examples = record.value("lambda_max").examples
        rows.append((_curvature_title(record), *cells, str(examples or "–")))
    columns = ("", "λmax", "λmin", "|λmin|/|λmax|", "examples")
    return Table("Curvature (Table A)", columns, tuple(rows))


def _curvature_title(record: Record) -> str:
    loss = "RLoss" if "-rloss-" in record.name else "Loss"
    match = _SCALED.search(record.name)
    return f"{loss} (× {match[1]})" if match else loss


def _text(value: Value, digits: int = 3) -> str:
    if value.value is None:
        return "–"
    error = "" if value.standard_error is None else f" ± {value.standard_error:.{digits}g}"
    return f"{value.value:.{digits}g}{error}"
