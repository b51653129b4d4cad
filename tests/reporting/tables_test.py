import csv
import io

import pytest
from rich.console import Console

from rfm.reporting.run import read_run
from rfm.reporting.tables import table


def _terminal(results, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(results.to_rich())
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("label", "split", "text"),
    [
        ("Err", "test", "20.16 ± 0.40"),  # 10,000 examples: one moves 0.01 %
        ("Err", "train", "0.33 ± 0.57"),
        ("RErr", "test", "61.0 ± 1.5"),  # 1,000 examples: one moves 0.1 %
        ("RErr", "train", "8.5 ± 0.9"),
        ("Loss", "test", "0.751 ± 0.001"),
        ("RLoss", "test", "3.915 ± 0.105"),
        ("Average-case flatness of Loss", "test", "0.209 ± 0.012"),
        ("Average-case flatness of RLoss", "test", "1.220 ± 0.035"),
        ("Worst-case flatness of Loss", "test", "21.051 ± 0.814"),
        ("Worst-case flatness of RLoss", "test", "6.491"),  # no standard error known
        ("Average-case flatness of RLoss", "train", "–"),  # not measured
    ],
)
def test_a_cell_is_rounded_in_the_unit_of_its_row(files, label, split, text):
    results = table(read_run(files.everything()).records)
    assert results.cell(label, split).text == text


def test_every_form_of_the_table_holds_every_cell(files):
    results = table(read_run(files.everything()).records)
    forms = (results.to_markdown(), results.to_html(), _terminal(results, width=80))
    for measure, cells in results.rows:
        for form in forms:
            line = next(line for line in form.splitlines() if measure.title in line)
            assert all(cell.text in line for cell in cells)
    for form in (results.to_markdown(), _terminal(results)):
        words = " ".join(form.split())
        assert all(line in words for line in results.caption)


def test_numbers_that_are_not_finite_or_missing_are_open_cells(files):
    entry = files.evaluation("test")
    entry["values"]["rerr"]["value"] = float("nan")
    entry["values"]["loss"] = {"value": 1.0, "standard_error": None, "examples": None}
    del entry["values"]["err"]
    files.records(entry, files.flatness("worst", "rloss", float("inf"), 0.1))
    results = table(read_run(files.workdir).records)
    assert {
        measure.label: cells[0].text for measure, cells in results.rows if cells[0].text != "–"
    } == {"Loss": "1.000", "RLoss": "3.915 ± 0.105"}
    assert all(cells[1].text == "–" for _, cells in results.rows)


def test_the_csv_has_one_unrounded_line_per_measured_cell(files):
    results = table(read_run(files.everything()).records)
    lines = list(csv.DictReader(io.StringIO(results.to_csv())))
    measured = sum(cell.value is not None for _, cells in results.rows for cell in cells)
    assert len(lines) == measured == 12
    rerr = next(line for line in lines if line["measure"] == "RErr")
    assert rerr == {
        "run": "at",
        "measure": "RErr",
        "unit": "percent",
        "split": "test",
        "checkpoint": "final",
        "step": "6000",
        "epoch": "60.0",
        "value": "61",
        "standard_error": "1.54",
        "examples": "1000",
    }


def test_snapshots_are_not_results(files):
    files.records(files.flatness("average", "rloss", 9.0, 0.1, snapshot=True))
    assert table(read_run(files.workdir).records) is None
    assert table([]) is None


def test_checkpoints_stand_side_by_side_the_latest_first(files):
    files.records(
        files.evaluation("test"),
        files.evaluation("test", step=3000, epoch=30.0, checkpoint="best"),
        files.flatness("average", "rloss", 0.5, 0.1, step=3000, epoch=30.0, checkpoint="3000"),
    )
    results = table(read_run(files.workdir).records)
    assert [column.title for column in results.columns] == [
        "Test (final, epoch 60)",
        "Train (final, epoch 60)",
        "Test (3000 and best, epoch 30)",
        "Train (3000 and best, epoch 30)",
    ]
    rows = {measure.label: cells for measure, cells in results.rows}
    flatness = rows["Average-case flatness of RLoss"]
    assert [cell.text for cell in flatness] == ["–", "–", "0.500 ± 0.100", "–"]
    assert "…" not in _terminal(results, width=80)


def test_names_are_text_in_every_form(files):
    name = "[bold]<script>|*at*"
    files.records(files.evaluation("test", run=name))
    results = table(read_run(files.workdir).records)
    assert name in _terminal(results)
    assert r"\[bold\]\<script\>\|\*at\*" in results.to_markdown()
