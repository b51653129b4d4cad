"""``rfm zoo``: published networks by name, what the paper got for them, and where they are."""

import argparse
import csv
import sys

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from rfm.cli.model_flags import ZOO
from rfm.configs import methods
from rfm.models.zoo import IN_PAPER, Entry
from rfm.models.zoo import ZOO as NETWORKS

# What of Table B is shown, and its column.
_SHOWN = {
    "Err": "err_test",
    "PGD": "rerr_pgd_test",
    "AA": "rerr_aa_test",
    "avg": "average_rloss",
    "worst": "worst_rloss",
}
_NAME, _LONG_NAME, _ARCHITECTURE, _NUMBER = 23, 37, 17, 6  # columns
_CAPTION = (
    "Err, RErr by PGD and by AutoAttack (AA) in percent, and average- and worst-case flatness of"
    " RLoss on test examples as in the paper's Table B; on the right RErr by AutoAttack as"
    " published. Download a file from the address below its name, and give it:"
    f" rfm run --model {ZOO}NAME --weights FILE"
)


def run(arguments: argparse.Namespace) -> int:
    """Prints the list."""
    paper = {row.zoo: row.values for row in methods.paper() if row.zoo}
    if arguments.csv:
        _write_csv(paper)
        return 0
    console = Console(highlight=False)
    titles = "".join(f"{title:>{_NUMBER}}" for title in (*_SHOWN, "publ."))
    console.print(f"{'':{_NAME + _ARCHITECTURE}}{titles}", style="bold")
    for name in IN_PAPER:
        entry = NETWORKS[name]
        shown = [paper[name][column] for column in _SHOWN.values()]
        numbers = [*shown, round(100 - entry.robust, 2)]
        right = "".join(f"{number:>{_NUMBER}g}" for number in numbers)
        _print(console, f"{name:{_NAME}}{entry.architecture:{_ARCHITECTURE}}{right}", entry)
    console.print(
        "\nLater, not in the paper: Err and RErr by AutoAttack as published", style="bold"
    )
    for name, entry in NETWORKS.items():
        if name not in IN_PAPER:
            right = "".join(f"{100 - accuracy:7.2f}" for accuracy in (entry.clean, entry.robust))
            _print(console, f"{name:{_LONG_NAME}}{entry.architecture:{24}}{right}", entry)
    console.print(Text(f"\n{_CAPTION}", style="dim"))
    return 0


def _print(console: Console, line: str, entry: Entry) -> None:
    console.print(Text(line), soft_wrap=True)
    # On a narrow terminal in two lines: addresses are not broken.
    console.print(Padding(Text(f"{entry.file}  {entry.url}", style="dim"), (0, 0, 0, 2)))


def _write_csv(paper: dict[str, dict[str, float | None]]) -> None:
    columns = list(next(iter(paper.values())))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    head = ("name", "architecture", "file", "url", "authors", "paper", "note")
    writer.writerow([*head, "published_err", "published_rerr_aa", *columns])
    for name, entry in NETWORKS.items():
        published = [f"{100 - accuracy:.2f}" for accuracy in (entry.clean, entry.robust)]
        values = paper.get(name, {})
        numbers = [values.get(column) for column in columns]
        writer.writerow(
            [
                *(getattr(entry, field) for field in head),
                *published,
                *("" if number is None else number for number in numbers),
            ]
        )
