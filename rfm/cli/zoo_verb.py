"""``rfm zoo``: published networks by name, what the paper got for them, and where they are."""

import argparse
import csv
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from rfm.cli.model_flags import ZOO
from rfm.configs import methods
from rfm.models.zoo import IN_PAPER
from rfm.models.zoo import ZOO as NETWORKS

# What of Table B is shown, and its column.
_SHOWN = {
    "Err": "err_test",
    "PGD": "rerr_pgd_test",
    "AA": "rerr_aa_test",
    "avg": "average_rloss",
    "worst": "worst_rloss",
}
_NAME, _ARCHITECTURE, _NUMBER = 23, 17, 6  # columns
_LONG_NAME, _LONG_ARCHITECTURE = 37, 24  # of networks that are not in the paper
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
    left, pair = _NAME + _ARCHITECTURE + _NUMBER, 2 * _NUMBER
    above = f"{'':{left}}{'RErr':>{pair}}{'flatness':>{pair}}{'RErr':>{_NUMBER}}"
    titles = "".join(f"{title:>{_NUMBER}}" for title in (*_SHOWN, "publ."))
    console.print(f"{above}\n{'':{_NAME + _ARCHITECTURE}}{titles}", style="bold")
    for name in IN_PAPER:
        entry = NETWORKS[name]
        shown = [paper[name][column] for column in _SHOWN.values()]
        numbers = [*shown, round(100 - entry.robust, 2)]
        right = "".join(f"{number:>{_NUMBER}g}" for number in numbers)
        line = f"{name:{_NAME}}{entry.architecture:{_ARCHITECTURE}}{right}"
        _print(console, line, entry.file, entry.url)
    later = [entry for name, entry in NETWORKS.items() if name not in IN_PAPER]
    folder = later[0].url.removesuffix(later[0].file)
    console.print("\nNot in the paper: published Err and RErr (AA); files are below", style="bold")
    console.print(Text(folder, style="dim"), soft_wrap=True)
    for entry in later:
        right = "".join(f"{100 - accuracy:7.2f}" for accuracy in (entry.clean, entry.robust))
        line = f"{entry.name:{_LONG_NAME}}{entry.architecture:{_LONG_ARCHITECTURE}}{right}"
        _print(console, line, entry.url.removeprefix(folder))
    console.print(Text(f"\n{_CAPTION}", style="dim"))
    return 0


def _print(console: Console, line: str, *where: str) -> None:
    """A line of numbers, and below it where the weights are, which is not broken."""
    console.print(Text(line), soft_wrap=True)
    indented = [f"  {part}" for part in where]
    joined = "".join(indented)
    for part in [joined] if len(joined) <= console.width else indented:
        console.print(Text(part, style="dim"), soft_wrap=True)


def _write_csv(paper: Mapping[str, Mapping[str, float | None]]) -> None:
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
