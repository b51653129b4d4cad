"""The report of a sweep: one HTML file over all runs below a folder, and its parts as files.

`write_sweep_report` writes into the folder what `rfm.reporting.html` writes into a run::

    report.html            figures inside, nothing fetched; links to the runs' own reports
    report/table.csv       a line for each method and measure, unrounded
    report/table.md        the tables for a README
    report/paper.csv       Tables B to E of the supplement, ours beside the paper's
    report/paper.md        the same for a README
    report/table-d.tex     the same as LaTeX, a file for each table
    report/figures/        every figure as PNG and SVG
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from markupsafe import Markup
from matplotlib.figure import Figure

from rfm.reporting import page, paper_files, sweep_figures
from rfm.reporting.paper_rows import PaperTable, Published
from rfm.reporting.paper_tables import paper_tables
from rfm.reporting.sweep import Member, read_sweep
from rfm.reporting.sweep_rows import Row, warnings
from rfm.reporting.sweep_tables import SweepTable, sweep_table

_log = logging.getLogger(__name__)

ALT = MappingProxyType(
    {
        "against": "RLoss of all runs against their flatness",
        "training": "RErr of all runs on held-out test examples over epochs",
    }
)
"""The figures of a sweep, by file name, in words."""


def sweep_figures_of(rows: Sequence[Row]) -> dict[str, Figure]:
    """The figures that there is something for, by the names of `ALT`."""
    drawn = {
        "against": sweep_figures.loss_against_flatness(rows),
        "training": sweep_figures.training_curves(rows),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def render(
    name: str,
    members: Sequence[Member],
    table: SweepTable,
    svgs: Mapping[str, str],
    paper: Sequence[PaperTable] = (),
) -> str:
    """The HTML page, its figures given as SVG."""
    rows = {member.path: row for row in table.rows for member in row.members}
    return page.render(
        "sweep.html.j2",
        svgs,
        name=name,
        alt=ALT,
        summary=_summary(members, table.rows),
        warnings=warnings(table.rows),
        tables={title: Markup(text) for title, text in table.to_html().items()},
        caption=table.caption,
        paper=paper_files.sections(paper),
        runs=[
            {
                "path": member.path,
                "link": f"{quote(member.path)}/report.html" if member.report else None,
                "row": rows.get(member.path),
                "seed": member.seed,
                "progress": member.progress,
                "finished": member.finished,
                "problems": member.problems,
            }
            for member in members
        ],
    )


def _summary(members: Sequence[Member], rows: Sequence[Row]) -> str:
    finished = sum(member.finished for member in members)
    measured = sum(bool(member.records) for member in members)
    return (
        f"{_count(len(members), 'run')} of {_count(len(rows), 'method')}: training is finished in"
        f" {finished}, {measured} {'has' if measured == 1 else 'have'} been measured."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def write_sweep_report(
    folder: str | os.PathLike[str], paper: Iterable[Published] = ()
) -> tuple[Path, SweepTable]:
    """Writes the report of all runs below a folder.

    What cannot be read, or compared, is named in the report and in the log.

    Args:
      folder: of runs.
      paper: the rows of the paper to put beside them, ``rfm.configs.methods.paper()``.

    Returns:
      The path of ``report.html``, and the table.

    Raises:
      UserError: there is no run below it, or a file cannot be written.
    """
    folder = Path(folder)
    members = read_sweep(folder)
    for member in members:
        for problem in member.run.problems:
            _log.warning("%s: %s", folder / member.path, problem)
    table = sweep_table(members)
    for line in warnings(table.rows):
        _log.warning("%s", line)
    svgs, contents = page.figure_files(ALT, sweep_figures_of(table.rows))
    contents["report/table.csv"] = table.to_csv()
    contents["report/table.md"] = table.to_markdown()
    beside = paper_tables(table.rows, paper)
    contents |= paper_files.files(beside)
    contents["report.html"] = render(folder.resolve().name, members, table, svgs, beside)
    page.write_all(folder, contents)
    return folder / "report.html", table
