"""A run as the report sees it: everything readable below its working directory."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfm.errors import UserError
from rfm.reporting.metrics import Metrics, read_metrics
from rfm.reporting.records import Record, read_json, read_record


@dataclasses.dataclass(frozen=True)
class Run:
    """Records, metrics and config of one working directory.

    Attributes:
      name: the config's name, else that of the records, else of the directory.
      records: all that could be read, by step and name.
      metrics: the course of training.
      config: the resolved config, {} where there is none.
      problems: one line of text per file, or line of metrics, that could not be read;
        files are named as seen from the working directory.
    """

    name: str
    records: tuple[Record, ...] = ()
    metrics: Metrics = dataclasses.field(default_factory=Metrics)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()


def read_run(workdir: str | os.PathLike[str]) -> Run:
    """Reads what a run left in `workdir`.

    A damaged file costs that file, not the report: it is named in `Run.problems`.

    Raises:
      UserError: there is no such directory, or nothing in it to report.
    """
    run = read_what_is_there(workdir)
    if not (run.records or run.metrics.train or run.metrics.validation):
        reason = f" ({'; '.join(run.problems)})" if run.problems else ""
        raise UserError(
            f"{workdir}: nothing to report yet{reason}; "
            f"run `rfm train --workdir {workdir}` or `rfm run --workdir {workdir}`"
        )
    return run


def read_what_is_there(workdir: str | os.PathLike[str], *, snapshots: bool = True) -> Run:
    """The same as `read_run` of a run that may have nothing yet.

    Args:
      workdir: of the run.
      snapshots: read their records, too. Most of a long run's are of snapshots.

    Raises:
      UserError: there is no such directory, or its metrics cannot be read.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such directory; `rfm run` makes one")
    problems: list[str] = []
    records: list[Record] = []
    for path in sorted(workdir.glob("records/*/*.json")):
        if not snapshots and path.stem.endswith("-snapshot"):
            continue
        try:
            records.append(read_record(path))
        except UserError as error:
            problems.append(str(error))
    records.sort(key=lambda record: (record.step, record.name, record.snapshot))

    metrics, damaged_lines = read_metrics(workdir / "metrics.jsonl")
    problems.extend(damaged_lines)

    config: Mapping[str, Any] = {}
    if (workdir / "config.json").exists():
        try:
            config = dict(read_json(workdir / "config.json"))
        except UserError as error:
            problems.append(str(error))
        except (TypeError, ValueError):
            problems.append("config.json: not a config of rfm")

    problems = [problem.removeprefix(f"{workdir}{os.sep}") for problem in problems]
    names = [config.get("name"), *(record.run for record in records)]
    name = next((str(name) for name in names if name), workdir.resolve().name)
    return Run(name, tuple(records), metrics, config, tuple(problems))
