"""``rfm methods``: every method by name, and what the paper got for it."""

import argparse
import csv
import sys

import rich.box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rfm.configs import methods

# What of the tables is shown, and its column.
_SHOWN = {
    "Err": "err_test",
    "RErr": "rerr_aa_test",
    "RLoss": "rloss_pgd_test",
    "average": "average_rloss",
    "worst": "worst_rloss",
}
_CAPTION = (
    "Group, Err, RErr against AutoAttack (%), RLoss by PGD, and average- and worst-case flatness"
    " of RLoss as in the paper's Tables D and E. Names joined by + are done together."
)


def run(arguments: argparse.Namespace) -> int:
    """Prints the list."""
    known = {row.method: row for row in methods.paper() if row.method}
    if arguments.csv:
        columns = list(next(iter(known.values())).values)
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["method", "what", "group", *columns])
        for name, what in _listed():
            row = known.get(name)
            numbers = [row.values[column] for column in columns] if row else [""] * len(columns)
            writer.writerow([name, what, row.group if row else "", *numbers])
        return 0
    table = Table(box=rich.box.SIMPLE_HEAD, caption=Text(_CAPTION), caption_justify="left")
    table.add_column("method", no_wrap=True)
    table.add_column("what")
    table.add_column("group")
    for title in _SHOWN:
        table.add_column(title, justify="right", no_wrap=True)
    before = ""
    for name, what in _listed():
        row = known.get(name)
        shown = [_number(row.values[column]) if row else "" for column in _SHOWN.values()]
        again = what == before  # of a family only the first says what it is
        table.add_row(name, Text("" if again else what), row.group if row else "", *shown)
        before = what
    Console().print(table)
    return 0


def _listed() -> list[tuple[str, str]]:
    """Names, and what they are."""
    return [
        (f"{name}-{numbers}" if numbers else name, family.summary)
        for name, family in methods.METHODS.items()
        for numbers in family.numbers
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
