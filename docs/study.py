"""Makes docs/results/study from the runs of the small study: ``python docs/study.py RUNS``.

What is kept of the runs is one archive: configs, metrics and records, without checkpoints and
without the pictures of adversarial examples. Tables, figures and the numbers on the page
docs/results/study.md are made from that archive alone; without RUNS they are made again from it.
"""

import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from rfm.configs import methods

from rfm import reporting
from rfm.reporting.tables import MEASURES

HERE = Path(__file__).parent / "results"
FOLDER = HERE / "study"
ARCHIVE = FOLDER / "records.zip"
PAGE = HERE / "study.md"
TABLES = ("table.csv", "paper.csv", "paper.md", "table-d.tex", "table-e.tex",
          "correlations.csv")  # fmt: skip
FIGURES = {
    **dict.fromkeys(("against", "measures", "stopping", "groups"), "svg"),
    **dict.fromkeys(("course", "course-worst", "correctness-final"), "svg"),
    **dict.fromkeys(("training-rloss", "training-rerr", "landscape-scaled"), "png"),
    **dict.fromkeys(("radii", "landscape-random", "landscape-adversarial"), "png"),
}
"""In which format: curves through many points are smaller as pixels."""
COLUMNS = {
    "Err": ("Err", "test"),
    "RErr (AA)": ("RErr (AA)", "test"),
    "RErr (train)": ("RErr", "train"),
    "RLoss": ("RLoss", "test"),
    "avg Loss": ("Average-case flatness of Loss", "test"),
    "avg RLoss": ("Average-case flatness of RLoss", "test"),
    "worst RLoss": ("Worst-case flatness of RLoss", "test"),
}
"""Of the page's table, in the paper's words."""
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


def pack(runs: Path, archive: Path) -> None:
    """Keeps what a report of `runs` is made of; the same runs give the same bytes."""
    finished = [member for member in reporting.read_sweep(runs) if member.final]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as kept:
        for member in finished:
            folder = runs / member.path
            files = (folder / "config.json", folder / "metrics.jsonl")
            for file in (*files, *sorted(folder.glob("records/*/*.json"))):
                text = file.read_text()
                if file.parent != folder:
                    record = json.loads(text)
                    record.pop("adversarial", None)
                    text = json.dumps(record) + "\n"
                entry = zipfile.ZipInfo(file.relative_to(runs).as_posix(), _LONG_AGO)
                entry.compress_type = zipfile.ZIP_DEFLATED
                kept.writestr(entry, text)


def report(archive: Path, folder: Path) -> dict[str, str]:
    """The report of the runs in an archive, unpacked in `folder`; the tables of the page."""
    with zipfile.ZipFile(archive) as kept:
        kept.extractall(folder)
    _, table = reporting.write_sweep_report(folder, methods.paper())
    found = folder / "report/findings.md"
    findings = found.read_text() if found.exists() else ""
    return {"findings": findings, "methods": methods_table(table)}


def methods_table(table: reporting.SweepTable) -> str:
    """A line for each method."""
    measures = {measure.label: measure for measure in MEASURES}
    lines = ["| method | runs | " + " | ".join(COLUMNS)]
    lines += ["|:--|--:" + "|--:" * len(COLUMNS)]
    for row in table.rows:
        cells = [table.text(row, measures[label], split) for label, split in COLUMNS.values()]
        lines.append(f"| {row.title} | {len(row.members)} | " + " | ".join(cells))
    return "".join(f"{line} |\n" for line in lines)


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with these tables between its marks."""
    for name, text in tables.items():
        begin, end = f"<!-- {name}: by docs/study.py -->", f"<!-- end of {name} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"{PAGE}: {begin} and {end} must be there once")
        before, after = page.split(begin)[0], page.split(end)[1]
        page = f"{before}{begin}\n\n{text}\n{end}{after}"
    return page


def main(runs: str | None = None) -> None:
    """Writes all of it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if runs is not None:
        pack(Path(runs), ARCHIVE)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        tables, made = report(ARCHIVE, folder), folder / "report"
        for name in TABLES:
            shutil.copy(made / name, FOLDER)
        for name, suffix in FIGURES.items():
            figure, kept = made / "figures" / f"{name}.{suffix}", FOLDER / f"{name}.{suffix}"
            kept.unlink(missing_ok=True)
            if figure.exists():
                shutil.copy(figure, kept)
        PAGE.write_text(with_tables(PAGE.read_text(), tables))


if __name__ == "__main__":
    main(*sys.argv[1:2])
