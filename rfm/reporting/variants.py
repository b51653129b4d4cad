"""Tables of what is measured beside the main table: radii, rescaled networks, eigenvalues.

Such records are variants: "xi-0.25" at another radius (Fig. E), "scaled-0.5" for a rescaled
network (Fig. F). The functions take the records of one checkpoint.
"""

import re
from collections.abc import Iterable

import rich.box
from rich.table import Table

from rfm.reporting.protocol import radius
from rfm.reporting.records import Record, Value

_XI = re.compile(r"^flatness-(average|worst)-rloss-test(-xi-.*)?$")
_SCALED = re.compile(r"-scaled-(.+)$")


def radii(records: Iterable[Record]) -> Table | None:
    """Flatness of RLoss by radius (Fig. E), if more than the config's were measured."""
    found: dict[str, dict[float, Value]] = {"average": {}, "worst": {}}
    for record in records:
        match, xi = _XI.match(record.name), radius(record)
        if match and xi is not None and not record.snapshot:
            found[match[1]][xi] = record.value("flatness")
    if not any(len(values) > 1 for values in found.values()):
        return None
    table = _table("Flatness of RLoss by radius (Fig. E), test")
    for title in ("", "ξ", "flatness"):
        table.add_column(title, justify="left" if not title else "right")
    for case, values in found.items():
        for xi, value in sorted(values.items(), key=lambda item: item[0]):
            table.add_row(f"{case} case", f"{xi:g}", _text(value))
    return table


def rescaled(records: Iterable[Record]) -> Table | None:
    """Errors, flatness and lambda_max of rescaled networks (Fig. F, Table A)."""
    by_factor: dict[float, dict[str, Record]] = {}
    for record in records:
        if match := _SCALED.search(record.name):
            name = record.name.removesuffix(match[0])
            by_factor.setdefault(float(match[1]), {})[name] = record
    if not by_factor:
        return None
    table = _table("The same function, convolutions rescaled (Fig. F, Table A)")
    columns = {
        "RErr (test)": ("evaluation-test", "rerr"),
        "RErr (train)": ("evaluation-train", "rerr"),
        "worst Loss": ("flatness-worst-loss-test", "flatness"),
        "avg RLoss": ("flatness-average-rloss-test", "flatness"),
        "worst RLoss": ("flatness-worst-rloss-test", "flatness"),
        "λmax": ("curvature-loss-test", "lambda_max"),
        "|λmin|/|λmax|": ("curvature-loss-test", "convexity"),
    }
    table.add_column("scaled")
    for title in columns:
        table.add_column(title, justify="right")
    for factor, group in sorted(by_factor.items()):
        cells = []
        for title, (name, key) in columns.items():
            value = group[name].value(key) if name in group else Value(None)
            percent = title.startswith("RErr") and value.value is not None
            cells.append(f"{100 * (value.value or 0):.1f} %" if percent else _text(value, 3))
        table.add_row(f"× {factor:g}", *cells)
    return table


def curvature(records: Iterable[Record]) -> Table | None:
    """Eigenvalues of the Hessian, None if there are none."""
    found = [r for r in records if r.name.startswith("curvature") and not r.snapshot]
    if not found:
        return None
    table = _table("Curvature (Table A)")
    for title in ("", "λmax", "λmin", "|λmin|/|λmax|", "examples"):
        table.add_column(title, justify="left" if not title else "right")
    for record in found:
        keys = ("lambda_max", "lambda_min", "convexity")
        cells = [_text(record.value(key), 4) for key in keys]
        examples = record.value("lambda_max").examples
        table.add_row(_curvature_title(record), *cells, str(examples or "–"))
    return table


def _curvature_title(record: Record) -> str:
    loss = "RLoss" if "-rloss-" in record.name else "Loss"
    match = _SCALED.search(record.name)
    return f"{loss} (× {match[1]})" if match else loss


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)


def _text(value: Value, digits: int = 3) -> str:
    if value.value is None:
        return "–"
    error = "" if value.standard_error is None else f" ± {value.standard_error:.{digits}g}"
    return f"{value.value:.{digits}g}{error}"
