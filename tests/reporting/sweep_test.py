"""A folder of runs: what is found, what is averaged, and what is not."""

import csv
import io
import json
import math
import re
import shutil

import pytest
from rich.console import Console

from rfm.errors import UserError
from rfm.reporting import read_sweep, sweep_interactive, sweep_table, write_sweep_report
from rfm.reporting.sweep import is_run
from rfm.reporting.sweep_rows import rows, warnings


def test_means_and_deviations_are_over_seeds(sweep):
    for seed, rerr in enumerate((0.50, 0.60, 0.70)):
        sweep(f"at-{seed}", "at", seed, rerr=rerr, flat=seed)
    sweep("trades", "trades", rerr=0.55)
    table = sweep_table(read_sweep(sweep.folder))
    trades, at = table.rows
    assert (trades.name, at.name) == ("trades", "at"), "sorted by RErr"
    mean = at.means["RErr", "test"]
    assert (mean.value, mean.deviation, mean.runs) == pytest.approx((60, 10, 3))
    flatness = at.means["Average-case flatness of RLoss", "test"]
    assert (flatness.value, flatness.deviation) == pytest.approx((1, 1))
    texts = {
        (row.name, measure.label): table.text(row, measure, split)
        for row in table.rows
        for part in table.parts
        for measure, split in part.columns
    }
    assert texts["at", "RErr"] == "60.0 ± 10.0"
    assert texts["trades", "RErr"] == "55.0", "one run has no deviation"
    assert texts["trades", "Average-case flatness of RLoss"] == "–"
    assert "standard deviation over the runs of a method" in table.caption[0]


def test_of_single_runs_the_standard_error_is_shown_and_named(sweep):
    sweep("at", rerr=0.61)
    table = sweep_table(read_sweep(sweep.folder))
    ((measure, split),) = [c for c in table.parts[0].columns if c[0].label == "RErr"]
    assert table.text(table.rows[0], measure, split) == "61.0 ± 1.5"
    assert "standard error over its examples" in table.caption[0]


def test_a_value_that_a_seed_lacks_is_not_filled_in(sweep):
    sweep("a", seed=0, flat=1.0)
    sweep("b", seed=1, flat=3.0)
    sweep("c", seed=2)
    table = sweep_table(read_sweep(sweep.folder))
    (row,) = table.rows
    text = "2.000 ± 1.414 (2)"
    assert text in table.to_markdown().replace("\\", "")
    assert row.means["RErr", "test"].runs == 3
    assert "In parentheses" in " ".join(table.caption)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "evaluation-test",
            lambda e: e["protocol"]["attack"].update(restarts=1),
            "attack.restarts of evaluation-test = 1",
        ),
        (
            "evaluation-test",
            lambda e: e["protocol"]["attack"].update(epsilon=4 / 255),
            "attack.epsilon of evaluation-test = 0.0156863",
        ),
        (
            "evaluation-test",
            lambda e: e["protocol"]["examples"].update(count=100),
            "examples.count of evaluation-test = 100",
        ),
        (
            "flatness-average-rloss-test",
            lambda e: e["protocol"]["ball"].update(radius=1.0),
            "ball.radius of flatness-average-rloss-test = 1",
        ),
        (
            "evaluation-test",
            lambda e: e.update(checkpoint="best", epoch=30.0),
            "checkpoint of evaluation-test = best",
        ),
    ],
)
def test_other_protocols_are_not_averaged(sweep, name, change, says):
    for seed in range(3):
        made = sweep(f"at-{seed}", seed=seed, rerr=0.5 + seed / 10, flat=seed + 1)
    made.edit(name, change)
    if "best" in says:  # of an earlier checkpoint there is nothing else
        shutil.rmtree(made.workdir / "records")
        entry = made.evaluation("test", checkpoint="best", step=3000, epoch=30.0)
        made.records(entry | {"adversarial": None})
    found = rows(read_sweep(sweep.folder))
    assert sorted(len(row.members) for row in found) == [1, 2]
    other = next(row for row in found if len(row.members) == 1)
    assert says in other.apart
    assert any(says.partition(" = ")[0] in line for line in warnings(found))
    assert says in sweep_table(read_sweep(sweep.folder)).to_csv()


def test_other_machines_and_versions_are_no_other_protocol(sweep):
    sweep("a", seed=0)
    made = sweep("b", seed=1)
    where = {"device": {"platform": "gpu"}, "versions": {"jax": "9"}, "git": "f"}
    made.edit("evaluation-test", lambda e: e["protocol"].update(where))
    made.edit("evaluation-test", lambda e: e["protocol"]["attack"].update(momentum=0.0))
    (row,) = rows(read_sweep(sweep.folder))
    assert len(row.members) == 2
    assert warnings([row]) == ()


def test_other_training_under_the_same_name_is_a_row_of_its_own(sweep):
    sweep("a", seed=0, model={"width": 16}, data={"source": "digits"})
    sweep("b", seed=1, model={"width": 64}, data={"source": "cifar10"})
    sweep("c", seed=2, model={"width": 64}, data={"source": "cifar10", "dir": "/elsewhere"})
    found = {len(row.members): row for row in rows(read_sweep(sweep.folder))}
    assert found[1].apart == ("data.source = digits", "and 1 more")
    assert found[2].apart == ("data.source = cifar10", "and 1 more")
    assert [member.path for member in found[2].members] == ["b", "c"]


def test_a_seed_that_counts_twice_is_told(sweep):
    sweep("a", seed=0)
    sweep("b", seed=0)
    (line,) = warnings(rows(read_sweep(sweep.folder)))
    assert line == "at: seed 0 counts 2 times (a, b)"


def test_rows_are_by_autoattack_if_all_have_it(sweep, files):
    def attacked(made, rerr):
        entry = files.evaluation("test") | {"kind": "attack", "name": "attack-autoattack-test"}
        made.records(entry | {"adversarial": None, "values": {"rerr": {"value": rerr}}})

    attacked(sweep("a", "first-by-pgd", rerr=0.4), 0.7)
    second = sweep("b", "first-by-autoattack", rerr=0.5)
    assert rows(read_sweep(sweep.folder))[0].name == "first-by-pgd"
    attacked(second, 0.6)
    assert rows(read_sweep(sweep.folder))[0].name == "first-by-autoattack"


def test_runs_are_found_at_any_depth_and_nothing_else_is(sweep):
    sweep("at/digits/seed-0")
    sweep("b", "trades")
    sweep(".sweep/hidden")
    sweep("b/below-a-run")
    (sweep.folder / "model").mkdir()
    (sweep.folder / "model/config.json").write_text('{"hidden_size": 3}')
    (sweep.folder / "again").symlink_to(sweep.folder)
    assert [member.path for member in read_sweep(sweep.folder)] == ["at/digits/seed-0", "b"]
    assert is_run(sweep.folder / "b")
    assert not is_run(sweep.folder)


def test_runs_say_how_far_they_are_and_what_they_lack(sweep):
    for name in ("a", "b", "c"):
        sweep(name, seed=ord(name), flat=1.0)
    sweep("half", rerr=None, trained=40)
    sweep("trained", rerr=None)
    sweep("none", rerr=None, trained=0)
    broken = sweep("broken", flat=1.0)
    (broken.workdir / "records/00006000/evaluation-test.json").write_text("{")
    (broken.workdir / "records/00006000/attack-autoattack-test.progress.npz").touch()
    damaged = sweep.folder / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    found = {member.path: member for member in read_sweep(sweep.folder)}
    assert found["a"].progress == "finished, 6,000 steps"
    assert found["a"].problems == ()
    assert found["half"].progress == "at step 4,000 of 6,000"
    assert not found["half"].finished
    assert found["trained"].problems == ("not evaluated",)
    assert found["none"].progress == "not begun"
    assert [problem.split(" ")[0] for problem in found["broken"].problems] == [
        "records/00006000/evaluation-test.json:",
        "attack-autoattack-test",
        "not",
    ]
    assert "config.json: not a JSON file" in found["damaged"].problems[0]
    assert all("damaged" not in m.path for row in rows(found.values()) for m in row.members)


def imported(sweep, path, digest, **changes):
    """A run of weights from elsewhere; `digest` begins their checksum."""
    weights = {"weights": f"/{path}/w.pt", "weights_sha256": digest.ljust(64, "0")}
    made = sweep(path, name="Pang2020Boosting", trained=0, model=weights, **changes)
    (old,) = made.workdir.glob("records/*/evaluation-test.json")
    entry = json.loads(old.read_text()) | {"step": 0, "epoch": None, "checkpoint": "imported"}
    entry["protocol"]["weights"] = weights["weights_sha256"]
    shutil.rmtree(old.parent)
    made.records(entry)
    (made.workdir / "metrics.jsonl").unlink()
    return made


def test_weights_from_elsewhere_are_rows_by_what_they_are_not_by_where(sweep):
    sweep("trained", rerr=0.6)
    imported(sweep, "here", "abc", rerr=0.3)
    imported(sweep, "there", "abc", rerr=0.5)
    imported(sweep, "other", "def", rerr=0.4)
    members = read_sweep(sweep.folder)
    progress = {member.path: member.progress for member in members}
    assert progress["here"] == "imported weights"
    found = {tuple(m.path for m in row.members): row for row in rows(members)}
    assert set(found) == {("here", "there"), ("other",), ("trained",)}
    same = found["here", "there"]
    assert same.value("RErr", "test") == pytest.approx(40.0)
    assert same.apart == ("model.weights_sha256 = abc000000000",)
    page = write_sweep_report(sweep.folder)[0].read_text()
    assert "imported weights" in page


def test_a_folder_without_runs_is_a_users_mistake(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nothing to report yet.*folder of runs") as caught:
        read_sweep(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such directory"):
        read_sweep(tmp_path / "nowhere")


def test_the_report_is_one_file_with_links_to_those_of_the_runs(sweep, caplog):
    for seed in range(3):
        sweep(f"at {seed}", seed=seed, rloss=seed, flat=seed + 1)
    odd = sweep("odd", "<script>|at $x_{$", rerr=0.3)  # no formula, either
    (odd.workdir / "report.html").touch()
    (sweep.folder / "at 1/report.html").touch()
    (sweep.folder / "at 2/records/00006000/evaluation-test.json").write_text("{")
    path, table = write_sweep_report(sweep.folder)
    text = path.read_text(encoding="utf-8")
    assert path == sweep.folder / "report.html"
    text = text.replace(sweep_interactive.plotly(), "")
    assert text.count("<script") == 3, "Plotly's, once, what draws with it, and what sorts"
    assert "<script>|" not in text
    assert "&lt;script&gt;|at $x_{$" in text
    assert not re.search(r"url\((?!#)|@import|\bon\w+=|\bsrc=", text)
    links = [link for link in re.findall(r'href="([^"]*)"', text) if not link.startswith("#")]
    assert links == ["at%201/report.html", "odd/report.html"]
    assert re.findall(r'"[^"]*/report.html"', text.partition("const charts")[2]) == [
        '"at%201/report.html"', '"odd/report.html"', '"at%201/report.html"',
    ], "of points, then of curves"  # fmt: skip
    assert text.count("<svg") == 3
    assert "evaluation-test.json: not a JSON file" in text
    assert str(sweep.folder) not in text
    assert "evaluation-test.json" in caplog.text
    made = {str(f.relative_to(sweep.folder)) for f in (sweep.folder / "report").rglob("*.*")}
    assert made == {
        *("report/table.csv", "report/table.md", "report/paper.csv", "report/paper.md"),
        *("report/table-d.tex", "report/table-e.tex", "report/findings.md"),
        *(
            f"report/figures/{n}.{kind}"
            for n in ("against", "training-rerr", "correctness-final")
            for kind in ("png", "svg")
        ),
    }
    before = path.read_bytes()
    write_sweep_report(sweep.folder)
    assert path.read_bytes() == before, "also beside a report"


def test_every_form_of_the_table_has_every_cell(sweep):
    for seed in range(2):
        sweep(f"at-{seed}", "[bold]at", seed, rerr=0.5 + seed / 10, flat=seed)
    table = sweep_table(read_sweep(sweep.folder))
    console = Console(width=60, file=io.StringIO(), color_system=None)
    for part in table.to_rich(60):
        console.print(part)
    terminal = console.file.getvalue()
    forms = [terminal, table.to_markdown().replace("\\", ""), "".join(table.to_html().values())]
    (row,) = table.rows
    for part in table.parts:
        for measure, split in part.columns:
            for form in forms:
                assert table.text(row, measure, split) in form
    assert all("[bold]at" in form for form in forms)
    assert max(map(len, terminal.splitlines())) <= 60
    assert "…" not in terminal
    lines = list(csv.DictReader(io.StringIO(table.to_csv())))
    rerr = next(line for line in lines if line["measure"] == "RErr")
    assert float(rerr["mean"]) == pytest.approx(55)
    assert float(rerr["standard_deviation"]) == pytest.approx(math.sqrt(50))
    assert (rerr["runs"], rerr["standard_error"]) == ("2", "")
