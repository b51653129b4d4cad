"""``rfm methods``: every method by name, and what the paper got for it."""

import argparse
import csv
import sys

from rich.console import Console
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
_NAME = 28  # columns
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
        for name, family in methods.listed():
            row = known.get(name)
            cells = [row.values[column] if row else "" for column in columns]
            writer.writerow([name, family.summary, row.group if row else "", *cells])
        return 0
    console = Console(highlight=False)
    titles = "".join(f"{title:>8}" for title in _SHOWN)
    console.print(f"{'':{_NAME}}{'group':8}{titles}", style="bold")
    before = None
    for name, family in methods.listed():
        if family is not before:
            console.print(Text(family.summary, style="dim"), soft_wrap=True)
        row, before = known.get(name), family
        shown = [_number(row.values[column]) if row else "" for column in _SHOWN.values()]
        right = "".join(f"{cell:>8}" for cell in shown)
        group = row.group if row else ""
        line = f"  {name:{_NAME - 2}}{group:8}{right}"
        console.print(Text(line.rstrip()), soft_wrap=True)
    console.print(Text(_CAPTION, style="dim"))
    return 0


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
