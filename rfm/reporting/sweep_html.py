"""The report of a sweep: one HTML file over all runs below a folder, and its parts as files.

`write_sweep_report` writes into the folder what `rfm.reporting.html` writes into a run::

    report.html               figures and charts inside, nothing fetched; links to the runs' own
    report/table.csv          a line for each method and measure, unrounded
    report/table.md           the tables for a README
    report/findings.md        the paper's findings: are they those of these runs?
    report/correlations.csv   a line for each measure: coefficients of RLoss, with intervals
    report/paper.csv          Tables B to E of the supplement, ours beside the paper's
    report/paper.md           the same for a README
    report/table-d.tex        the same as LaTeX, a file for each table
    report/figures/           every figure as PNG and SVG
"""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from markupsafe import Markup
from matplotlib.figure import Figure

from rfm.reporting import (
    findings,
    page,
    paper_files,
    scatter,
    sweep_correlations,
    sweep_figures,
    sweep_groups,
    sweep_interactive,
    sweep_landscapes,
    sweep_snapshots,
    sweep_training,
    through_training,
)
from rfm.reporting.finding import Finding
from rfm.reporting.paper_rows import PaperTable, Published
from rfm.reporting.paper_tables import paper_tables
from rfm.reporting.sweep import Member, read_sweep
from rfm.reporting.sweep_points import Measured, Points, all_points
from rfm.reporting.sweep_rows import Row, warnings
from rfm.reporting.sweep_snapshots import Course
from rfm.reporting.sweep_tables import SweepTable, sweep_table

_log = logging.getLogger(__name__)

_PAGE = 912  # its width in points, 76 rem

ALT = MappingProxyType(
    {
        "against": "RLoss of all runs against their flatness",
        "measures": "RLoss of all runs against other measures",
        "radii": "RLoss of all runs against their flatness at several radii",
        "stopping": "RLoss against flatness at the last and at the best checkpoint",
        "groups": "RLoss against flatness, hyper-parameters of a family joined by lines",
        "training-rloss": "RLoss of all runs over epochs",
        "training-rerr": "RErr of all runs over epochs",
        "course": "RLoss against average-case flatness through training, for each method",
        "course-worst": "RLoss against worst-case flatness through training, for each method",
        "course-radii": "Flatness at several radii through training of one run",
        "correctness": "RLoss of right and wrong examples through training, for each method",
        "correctness-final": "RLoss of right and wrong examples of all runs",
        **{
            f"landscape-{kind}{'' if per == 'layer' else f'-{per}'}": f"RLoss along {kind}"
            f" directions, relative to each {per}, of all methods"
            for per in sweep_landscapes.PER
            for kind in sweep_landscapes.KINDS
        },
        "landscape-scaled": "RLoss along directions of rescaled networks",
    }
)
"""The figures of a sweep, by file name, in words."""


def sweep_figures_of(
    rows: Sequence[Row], found: Mapping[Measured, Points], courses: Sequence[Course] = ()
) -> dict[str, Figure]:
    """The figures that there is something for, by the names of `ALT`.

    Args:
      rows: the methods.
      found: RLoss and each measure.
      courses: snapshots of a run of each method.
    """
    records = {course.title: course.records for course in courses}
    radii = sweep_snapshots.most_radii(courses)
    drawn = {
        "against": sweep_figures.main_scatter(found, rows),
        "measures": sweep_figures.other_measures(found, rows),
        "radii": sweep_figures.radii(found, rows),
        "stopping": sweep_groups.early_stopping(rows),
        "groups": sweep_groups.hyper_parameters(found, rows),
        "training-rloss": sweep_training.curves(rows, "rloss"),
        "training-rerr": sweep_training.curves(rows, "rerr"),
        "course": scatter.of_methods(records, "average"),
        "course-worst": scatter.of_methods(records, "worst"),
        "course-radii": None if radii is None else _through_training(radii),
        "correctness": sweep_snapshots.correctness(courses),
        "correctness-final": sweep_snapshots.correctness_at_the_end(rows),
        "landscape-scaled": sweep_landscapes.rescaled(rows),
    }
    for per in sweep_landscapes.PER:
        for kind in sweep_landscapes.KINDS:
            name = f"landscape-{kind}{'' if per == 'layer' else f'-{per}'}"
            drawn[name] = sweep_landscapes.lines(rows, kind, per)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _through_training(of: Course) -> Figure | None:
    return through_training.flatness_through_training(of.records, of.member.run.metrics)


def charts_of(
    rows: Sequence[Row], found: Mapping[Measured, Points]
) -> dict[str, sweep_interactive.Chart]:
    """The interactive charts that there is something for, by their ids."""
    drawn = {
        "chart-against": sweep_interactive.scatter(found, rows),
        "chart-training": sweep_interactive.training(rows),
    }
    return {name: chart for name, chart in drawn.items() if chart is not None}


def render(
    name: str,
    members: Sequence[Member],
    table: SweepTable,
    svgs: Mapping[str, str],
    found: Mapping[Measured, Points],
    courses: Sequence[Course] = (),
    paper: Sequence[PaperTable] = (),
    answers: Sequence[Finding] = (),
) -> str:
    """The HTML page, its figures given as SVG."""
    rows = {member.path: row for row in table.rows for member in row.members}
    damaged = {course.member.path: course.problems for course in courses}
    charts = charts_of(table.rows, found)
    correlations = sweep_correlations.to_html(found)
    radii = sweep_snapshots.most_radii(courses)
    return page.render(
        "sweep.html.j2",
        svgs,
        name=name,
        alt=ALT,
        summary=_summary(members, table.rows),
        findings=answers,
        findings_columns=findings.COLUMNS,
        findings_rules=findings.RULES,
        warnings=warnings(table.rows),
        tables={title: Markup(text) for title, text in table.to_html().items()},
        caption=table.caption,
        charts=Markup(sweep_interactive.as_json(charts)) if charts else None,
        plotly=Markup(sweep_interactive.plotly()) if charts else None,
        shown=tuple(charts),
        correlations=Markup(correlations) if correlations else None,
        radii=radii.member.path if radii else None,
        landscapes={
            name: "" if _width(svg) > _PAGE / 2 else "single"
            for name, svg in svgs.items()
            if name.startswith("landscape-")
        },
        paper=paper_files.sections(paper),
        runs=[
            {
                "path": member.path,
                "link": sweep_interactive.link(member),
                "row": rows.get(member.path),
                "seed": member.seed,
                "progress": member.progress,
                "finished": member.finished,
                "problems": (*member.problems, *damaged.get(member.path, ())),
            }
            for member in members
        ],
    )


def _width(svg: str) -> float:
    """Of a figure, in points."""
    found = re.search(r'viewBox="0 0 ([0-9.]+)', svg)
    return float(found[1]) if found else 0.0


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
    courses = sweep_snapshots.read(folder, table.rows)
    for course in courses:
        for problem in course.problems:
            _log.warning("%s: %s", folder / course.member.path, problem)
    found = all_points(table.rows)
    svgs, contents = page.figure_files(ALT, sweep_figures_of(table.rows, found, courses))
    contents["report/correlations.csv"] = sweep_correlations.to_csv(found)
    contents["report/table.csv"] = table.to_csv()
    contents["report/table.md"] = table.to_markdown()
    published = tuple(paper)
    beside = paper_tables(table.rows, published)
    contents |= paper_files.files(beside)
    answers = findings.findings(table.rows, published, courses)
    contents["report/findings.md"] = findings.to_markdown(answers)
    contents["report.html"] = render(
        folder.resolve().name, members, table, svgs, found, courses, beside, answers
    )
    page.write_all(folder, contents)
    return folder / "report.html", table
