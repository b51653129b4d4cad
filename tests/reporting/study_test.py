"""The small study's page: its tables and findings are those of the records beside it."""

import importlib.util
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rfm.reporting import read_sweep

DOCS = Path(__file__).parents[2] / "docs"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study", DOCS / "study.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "study"
    return study.report(study.ARCHIVE, folder), folder / "report"


def same(text, other):
    """The same words; numbers may round otherwise on another machine."""
    assert NUMBER.sub("#", text) == NUMBER.sub("#", other)
    ours, theirs = (list(map(float, NUMBER.findall(of))) for of in (text, other))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0.011)


def test_tables_are_those_of_the_records(study, made):
    for name in study.TABLES:
        same((study.FOLDER / name).read_text(), (made[1] / name).read_text())


def test_the_page_has_these_tables_and_shows_what_is_there(study, made):
    page = study.PAGE.read_text()
    same(page, study.with_tables(page, made[0]))
    shown = set(re.findall(r"\(study/([^)]+)\)", page))
    there = {path.name for path in study.FOLDER.iterdir()}
    assert shown <= there and {study.ARCHIVE.name, *study.TABLES} <= shown


def test_what_is_kept_makes_the_same_tables(study, sweep, tmp_path):
    for seed in (0, 1):
        run = sweep(f"at-{seed}", "at", seed, flat=seed, trained=60)
        entry = run.evaluation("test", run="at", step=6000, epoch=60.0)
        run.records(entry)
    sweep("unfinished", "trades", rerr=None, trained=20)
    (sweep.folder / "at-0" / "checkpoints").mkdir()
    (sweep.folder / "at-0" / "checkpoints" / "state").write_bytes(b"large")
    archives = [tmp_path / "one.zip", tmp_path / "two.zip"]
    for archive in archives:
        study.pack(sweep.folder, archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(archives[0]) as kept:
        names = kept.namelist()
        records = [json.loads(kept.read(name)) for name in names if "/records/" in name]
    assert not [name for name in names if "checkpoints" in name or "unfinished" in name]
    assert records and not [record for record in records if "adversarial" in record]
    tables = study.report(archives[0], tmp_path / "again")
    assert [member.path for member in read_sweep(tmp_path / "again")] == ["at-0", "at-1"]
    assert tables["methods"].splitlines()[2].startswith("| at | 2 | ")
