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
from pathlib import Path

from rfm.configs import methods

from rfm import reporting

HERE = Path(__file__).parent / "results"
FOLDER = HERE / "study"
ARCHIVE = FOLDER / "records.zip"
PAGE = HERE / "study.md"
TABLES = ("findings.md", "table.csv", "paper.csv", "paper.md", "table-d.tex", "table-e.tex",
          "correlations.csv")  # fmt: skip
FIGURES = {
    **dict.fromkeys(("against", "measures", "stopping", "groups"), "svg"),
    **dict.fromkeys(("course", "course-worst", "correctness-final"), "svg"),
    **dict.fromkeys(("training-rloss", "training-rerr", "landscape-scaled"), "png"),
    **dict.fromkeys(("radii", "landscape-random", "landscape-adversarial"), "png"),
}
"""In which format: curves through many points are smaller as pixels."""
BEGIN, END = "<!-- findings: by docs/study.py -->", "<!-- end of findings -->"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


def pack(runs: Path, archive: Path) -> None:
    """Keeps what a report of `runs` is made of; the same runs give the same bytes."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as kept:
        for member in reporting.read_sweep(runs):
            if not member.final:
                continue
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


def report(archive: Path, folder: Path) -> Path:
    """The report of the runs in an archive, unpacked in `folder`; the folder of its parts."""
    with zipfile.ZipFile(archive) as kept:
        kept.extractall(folder)
    reporting.write_sweep_report(folder, methods.paper())
    return folder / "report"


def with_findings(page: str, table: str) -> str:
    """The page with this table of findings."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def main(runs: str | None = None) -> None:
    """Writes all of it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if runs is not None:
        pack(Path(runs), ARCHIVE)
    with tempfile.TemporaryDirectory() as place:
        made = report(ARCHIVE, Path(place) / "study")
        for name in TABLES:
            shutil.copy(made / name, FOLDER)
        for name, suffix in FIGURES.items():
            if (figure := made / "figures" / f"{name}.{suffix}").exists():
                shutil.copy(figure, FOLDER)
        PAGE.write_text(with_findings(PAGE.read_text(), (made / "findings.md").read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:2])
