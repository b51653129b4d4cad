"""The benchmark harness, on two sides that take no time and need no PyTorch."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SIDES = """
from benchmarks.harness import Job

def run(value, units=1):
    print("libraries print")
    return Job(lambda: value, units=units, about={"device": "none", "versions": "x 1"})
"""


@pytest.fixture
def harness(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    (tmp_path / "trivial_sides.py").write_text(SIDES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return importlib.import_module("benchmarks.harness")


@pytest.fixture
def row(harness):
    def side(**settings):
        return harness.Side("trivial_sides:run", settings)

    case = harness.Case("nothing", "call", {"a": side(value=1.0, units=2), "b": side(value=2.0)})
    return harness.measure(case, repeats=3)


def test_ratio_is_of_medians_with_the_spread_of_pairs(harness):
    found = harness.ratio([2.0, 4.0, 9.0], [1.0, 4.0, 3.0])
    assert found == {"of_medians": 4 / 3, "pairs": [2.0, 1.0, 3.0], "min": 1.0, "max": 3.0}


def test_row_has_every_repetition_of_both_sides(row):
    for name, value, units in (("a", 1.0, 2), ("b", 2.0, 1)):
        side = row["sides"][name]
        assert side["units_per_call"] == units
        assert side["values"] == [value] * 3
        assert len(side["seconds"]) == len(side["cpu_seconds"]) == 3
        assert side["min"] <= side["median"] <= side["max"]
        assert side["peak_bytes"] > 0
    medians = [row["sides"][name]["median"] for name in ("a", "b")]
    assert row["ratio"]["of_medians"] == pytest.approx(medians[0] / medians[1])


def test_result_file_replaces_rows_of_the_same_name_and_renders(row, harness, tmp_path):
    report = importlib.import_module("benchmarks.report")
    folder = tmp_path / "results"
    path = report.save([row, {**row, "name": "other"}], folder)
    assert report.save([{**row, "unit": "new"}], folder) == path
    rows = json.loads(path.read_text())["rows"]
    assert [(r["name"], r["unit"]) for r in rows] == [("other", "call"), ("nothing", "new")]
    assert rows[0]["environment"]["cores"] == harness.cores()

    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.render(readme, folder)
    once = readme.read_text()
    report.render(readme, folder)
    assert readme.read_text() == once
    assert "nothing (s per new)" in once
    assert "old" not in once
    assert once.startswith("before") and once.endswith("after\n")


def test_a_side_that_dies_or_computes_no_number_is_an_error(harness):
    bad = harness.Side("trivial_sides:run", {"value": float("nan")})
    lost = harness.Side("trivial_sides:nowhere")
    with pytest.raises(RuntimeError, match="a computed nan"):
        harness.measure(harness.Case("x", "call", {"a": bad, "b": bad}), repeats=1)
    with pytest.raises(RuntimeError, match="a ended with status 1"):
        harness.measure(harness.Case("x", "call", {"a": lost, "b": bad}), repeats=1)
