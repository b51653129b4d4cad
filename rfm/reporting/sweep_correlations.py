"""A table of all correlations with test RLoss, with their intervals."""

import csv
import html
import io
from collections.abc import Mapping

from rfm.reporting.correlation import Correlation, Interval
from rfm.reporting.sweep_points import Measured, Points
from rfm.reporting.tables import OPEN

COLUMNS = (
    *("measure", "record", "value", "radius"),
    *("pearson", "pearson_low", "pearson_high", "spearman", "spearman_low", "spearman_high"),
    *("runs", "methods", "measured_otherwise"),
)


def to_csv(found: Mapping[Measured, Points]) -> str | None:
    """A line for each measure, unrounded; None without any coefficient."""
    lines = [
        [
            *(measure.title, measure.record, measure.value, measure.radius),
            *(of.pearson, *_ends(of.pearson_interval)),
            *(of.spearman, *_ends(of.spearman_interval)),
            *(of.runs, of.methods, points.left_out),
        ]
        for measure, points in found.items()
        if (of := points.correlation) is not None
    ]
    if not lines:
        return None
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(lines)
    return buffer.getvalue()


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return interval or (None, None)


def to_html(found: Mapping[Measured, Points]) -> str | None:
    """A ``<table>``; None without any coefficient."""
    rows = [
        (measure.title, *_cells(of))
        for measure, points in found.items()
        if (of := points.correlation) is not None
    ]
    if not rows:
        return None
    titles = ("Test RLoss and", "Pearson", "95% interval", "Spearman", "95% interval",
              "runs", "methods")  # fmt: skip
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{html.escape(title)}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>\n"
        for title, *cells in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def _cells(of: Correlation) -> tuple[str, ...]:
    return (
        *(_signed(of.pearson), _interval(of.pearson_interval)),
        *(_signed(of.spearman), _interval(of.spearman_interval)),
        *(str(of.runs), str(of.methods)),
    )


def _interval(interval: Interval | None) -> str:
    return OPEN if interval is None else " to ".join(map(_signed, interval))


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
