"""The report: one HTML file that holds everything, and its parts as files.

`write_report` turns a working directory into::

    report.html            figures inside, nothing fetched; a script only for a 3-D surface
    report/table.csv       the table for a spreadsheet, unrounded
    report/table.md        the table for a README
    report/figures/        every figure as PNG and SVG

The same working directory gives the same bytes: there is no date in any of them. Each
file is replaced at once or not at all, also when the process is killed while it writes.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from markupsafe import Markup
from matplotlib.figure import Figure

from rfm.reporting import (
    figures,
    gallery,
    landscapes,
    page,
    protocol,
    scatter,
    spectrum,
    surface3d,
    through_training,
    variants,
)
from rfm.reporting.records import AdversarialExamples, Record, latest
from rfm.reporting.run import Run, read_run
from rfm.reporting.summary import summary
from rfm.reporting.tables import ResultsTable, table

_log = logging.getLogger(__name__)

ALT = MappingProxyType(
    {
        "training": "RLoss and RErr on train and held-out test examples over epochs",
        "flatness": "Flatness of the snapshots over epochs beside their RLoss",
        "against": "RLoss of the snapshots against their flatness",
        "landscape": "RLoss and Loss along directions in weight space",
        "surface": "RLoss over a plane in weight space",
        "spectrum": "Spectral density of the Hessian",
        "correctness": "RLoss of examples that are right and wrong without attack",
        "examples": "Clean images, adversarial images and their amplified differences",
    }
)
"""The figures of a report, by file name, in words."""


def _examples(run: Run) -> AdversarialExamples | None:
    shown = (record.adversarial for record in latest(run.records))
    return next((examples for examples in shown if examples is not None), None)


def report_figures(run: Run) -> dict[str, Figure]:
    """The figures that a run has data for, by the names of `ALT`."""
    drawn = {
        "training": figures.training_curves(run.metrics),
        "flatness": through_training.flatness_through_training(run.records, run.metrics),
        "against": scatter.loss_against_flatness(run.records),
        "landscape": landscapes.lines([run], [run.name]),
        "surface": landscapes.surfaces([run], [run.name]),
        "spectrum": spectrum.spectral_density(run.records),
        "correctness": figures.loss_by_correctness(run.records),
        "examples": gallery.adversarial_examples(_examples(run)),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _last(run: Run) -> list[Record]:
    """All records of the last checkpoint, variants included."""
    step = max((record.step for record in latest(run.records)), default=0)
    return [record for record in run.records if record.step == step and not record.snapshot]


def _protocol_records(run: Run) -> list[Record]:
    """Every record of the table, the latest first, and the last snapshots."""
    results = [record for record in run.records if not record.snapshot and not record.variant]
    results.sort(key=lambda record: -record.step)
    of_snapshots = (r for r in run.records if r.snapshot and not r.variant)
    snapshots = {record.name: record for record in of_snapshots}
    return results + list(snapshots.values())


def render(run: Run, results: ResultsTable | None, svgs: Mapping[str, str]) -> str:
    """The HTML page, its figures given as SVG."""
    examples = _examples(run)
    surface_3d = surface3d.interactive(run.records)
    shared, own = protocol.comparison(_protocol_records(run))
    return page.render(
        "report.html.j2",
        svgs,
        run=run,
        summary=summary(run, results),
        results=results,
        table=Markup(results.to_html()) if results else None,
        alt=ALT,
        amplification=gallery.amplification(examples) if examples else None,
        shared=shared,
        own=own,
        config=json.dumps(run.config, indent=2, default=str) if run.config else None,
        variants=[Markup(small.to_html()) for small in variants.tables(_last(run))],
        surface_3d=Markup(surface_3d) if surface_3d else None,
    )


def write_report(workdir: str | os.PathLike[str]) -> Path:
    """Writes the report of a working directory and says where it is.

    Part of a run is enough: training alone gives its curves, records alone their table.
    Files that cannot be read are named in the report and in the log.

    Args:
      workdir: a directory of `rfm train`, `evaluate`, `flatness` or `run`.

    Returns:
      The path of ``report.html``.

    Raises:
      UserError: there is nothing to report, or a file cannot be written.
    """
    run = read_run(workdir)
    for problem in run.problems:
        _log.warning("%s%s%s", workdir, os.sep, problem)
    results = table(run.records)
    svgs, contents = page.figure_files(ALT, report_figures(run))
    contents["report/table.csv"] = results.to_csv() if results else None
    contents["report/table.md"] = results.to_markdown() if results else None
    contents["report.html"] = render(run, results, svgs)
    page.write_all(Path(workdir), contents)
    return Path(workdir) / "report.html"
