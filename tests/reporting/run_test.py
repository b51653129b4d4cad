import pytest

from rfm.errors import UserError
from rfm.reporting.run import read_run


def test_everything_of_a_run_is_read_in_order(files):
    run = read_run(files.everything(name="at-ξ"))
    assert run.name == "at-ξ"
    assert run.problems == ()
    assert run.config["model"] == {"width": 16}
    places = [(record.step, record.name) for record in run.records]
    assert places == sorted(places)
    assert len(run.metrics.validation) == 12


def test_a_run_without_config_is_called_what_its_records_or_directory_are(files):
    files.metrics({"kind": "train", "step": 1, "epoch": 1})
    assert read_run(files.workdir).name == "run"
    files.records(files.evaluation("test", run="trades"))
    assert read_run(files.workdir).name == "trades"


def test_damaged_files_cost_themselves_and_are_named(files):
    files.everything()
    damaged = files.workdir / "records/00006000/evaluation-test.json"
    damaged.write_text(damaged.read_text()[:100])
    (files.workdir / "config.json").write_text('["no", "config"]')
    run = read_run(files.workdir)
    assert [problem.split(":")[0] for problem in run.problems] == [
        "records/00006000/evaluation-test.json",
        "config.json",
    ]
    assert not any(record.name == "evaluation-test" for record in run.records)
    assert any(record.name == "evaluation-train" for record in run.records)


def test_nothing_to_report_says_what_to_run(files):
    with pytest.raises(UserError, match="nothing to report yet; run `rfm train") as caught:
        read_run(files.workdir)
    assert "\n" not in str(caught.value)


def test_nothing_but_damage_is_named(files):
    (files.workdir / "config.json").write_text("{")
    with pytest.raises(
        UserError, match=r"run: nothing .*\(config\.json: not a JSON file"
    ) as caught:
        read_run(files.workdir)
    assert "\n" not in str(caught.value)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such directory"):
        read_run(tmp_path / "nowhere")
