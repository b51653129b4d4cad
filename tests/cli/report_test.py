"""`rfm report` over a folder of runs."""

import json
import shutil

import pytest


@pytest.fixture
def folder(tmp_path, trained):
    """Three seeds of a run, with records that are known; nothing is trained."""
    config = json.loads((trained / "config.json").read_text())
    for seed, rerr in enumerate((0.50, 0.60, 0.70)):
        workdir = tmp_path / "runs" / f"at-seed{seed}"
        records = workdir / "records/00000015"
        records.mkdir(parents=True)
        (workdir / "config.json").write_text(json.dumps({**config, "seed": seed}))
        shutil.copy(trained / "metrics.jsonl", workdir)
        record = {
            **{"schema": 1, "kind": "evaluation", "name": "evaluation-test", "run": "at"},
            **{"step": 15, "epoch": 3.0, "checkpoint": "final", "split": "test"},
            "values": {"rerr": {"value": rerr, "standard_error": 0.01, "examples": 64}},
        }
        (records / "evaluation-test.json").write_text(json.dumps(record))
    return tmp_path / "runs"


def test_a_folder_of_runs_has_one_report_of_all(folder, quick_rfm, contents):
    result = quick_rfm("report", folder)
    assert (result.status, result.err) == (0, ""), result
    (row,) = (line for line in result.out.splitlines() if line.split()[:2] == ["1", "at"])
    assert row.split()[2] == "3"
    assert "60.0 ± 10.0" in row
    assert result.out.splitlines()[-1] == f"report: {folder / 'report.html'}"
    written = {"report.html", "report/table.csv", "report/table.md", "report/paper.md"}
    assert written <= contents(folder).keys()
    assert "AT (baseline)" in (folder / "report/paper.md").read_text(), "beside the paper's"
    before = contents(folder)
    assert quick_rfm("report", "--workdir", folder).out == result.out
    assert contents(folder) == before


def test_a_damaged_run_does_not_stop_the_others(folder, quick_rfm):
    (folder / "at-seed1/records/00000015/evaluation-test.json").write_text("{")
    result = quick_rfm("report", folder)
    assert result.status == 0, result
    assert "at-seed1: records/00000015/evaluation-test.json" in result.err
    assert "60.0 ± 14.1 (2)" in result.out


def test_a_run_is_reported_as_before(folder, quick_rfm):
    run = folder / "at-seed0"
    named, flagged = quick_rfm("report", run), quick_rfm("report", "--workdir", run)
    assert named.status == 0, named
    assert named == flagged
    assert "Results of at" in named.out
    assert (run / "report.html").exists()
