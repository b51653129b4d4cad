"""``rfm attack``, as the installed command."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from rfm.models import exported


@pytest.fixture
def again(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def record(workdir: Path, name: str) -> dict:
    (path,) = workdir.glob(f"records/*/{name}.json")
    return json.loads(path.read_text())


def test_autoattack_stands_in_the_table(again, quick_rfm):
    result = quick_rfm("attack", "--workdir", again)
    assert (result.status, result.err) == (0, ""), result
    assert "RErr (AA) (%)" in result.out
    assert "RLoss (AA)" in result.out
    assert "AutoAttack (apgd-ce, apgd-t, fab-t, square)" in " ".join(result.out.split())
    found = record(again, "attack-autoattack-test")
    assert set(found["broken_by"]) <= {"clean", "apgd-ce", "apgd-t", "fab-t", "square"}
    (before,) = again.glob("records/*/attack-autoattack-test.json")
    written = before.stat().st_mtime_ns
    assert quick_rfm("attack", "--workdir", again).status == 0
    assert before.stat().st_mtime_ns == written, "what is measured is not measured again"


def test_killed_it_goes_on_at_the_batch_where_it_was(again, start, quick_rfm, tmp_path):
    other = Path(shutil.copytree(again, tmp_path / "other"))
    command = ("attack", "--attack", "fab-t", "--split", "train", "--workdir")
    process = start(*command, again)
    while not list(again.glob("records/*/attack-fab-t-train.progress.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for workdir in (again, other):
        result = quick_rfm(*command, workdir)
        assert (result.status, result.err) == (0, ""), result
        assert not list(workdir.rglob("*.progress.npz"))
    one, two = (record(workdir, "attack-fab-t-train") for workdir in (again, other))
    assert one["per_example"] == two["per_example"]


def test_an_unknown_attack_is_told(again, quick_rfm):
    line = quick_rfm("attack", "--attack", "autoatack", "--workdir", again).line
    assert "no attack 'autoatack' among autoattack, " in line
    assert line.endswith("did you mean autoattack?")


def test_an_exported_model_is_the_same_model(again, quick_rfm, tmp_path):
    result = quick_rfm("export", "--workdir", again)
    assert (result.status, result.err) == (0, ""), result
    assert f"exported: {again / 'exported/at-15.npz'}" in result.out
    (again / "exported/at-15.npz").rename(tmp_path / "m.npz")
    attack = ("attack", "--attack", "apgd-ce")
    result = quick_rfm(*attack, "--workdir", again)
    assert "attack-apgd-ce-test: RErr" in result.out
    there = tmp_path / "there"
    flags = ("--config", again.parent / "absent", "--workdir", there)
    assert "no config" in quick_rfm(*attack, "--exported", tmp_path / "m.npz", *flags).line
    sizes = ("--config.evaluation.examples=64", "--config.evaluation.batch_size=64")
    flags = ("--config", "digits", *sizes, "--workdir", there)
    result = quick_rfm(*attack, "--exported", tmp_path / "m.npz", *flags)
    assert (result.status, result.err) == (0, ""), result
    one, two = (record(workdir, "attack-apgd-ce-test") for workdir in (again, there))
    assert one["per_example"]["broken_by"] == two["per_example"]["broken_by"]
    assert len(two["protocol"]["exported"]) == 64, "its checksum"
    assert one["compile_seconds"] > 0

    # The workdir knows its model; saved examples transfer perfectly, and are not trained on.
    (saved,) = again.glob("records/*/attack-apgd-ce-test.npz")
    result = quick_rfm("attack", "--saved", saved, "--workdir", there)
    assert (result.status, result.err) == (0, ""), result
    transferred = record(there, "attack-saved-attack-apgd-ce-test-*-test")
    assert transferred["per_example"]["robust"] == one["per_example"]["robust"]
    assert "cannot be trained" in quick_rfm("train", "--workdir", there).line
    (tmp_path / "m.npz").unlink()
    assert "no such file" in quick_rfm("attack", "--again", "--workdir", there).line


def test_evaluate_runs_autoattack_if_the_config_says_so(again, quick_rfm):
    flags = ("--config.evaluation.autoattack=standard", "--config.evaluation.examples=8")
    result = quick_rfm("evaluate", "--workdir", again, *flags)
    assert (result.status, result.err) == (0, ""), result
    assert "RErr (AA) (%)" in result.out
    assert record(again, "attack-autoattack-test")["values"]["rerr"]["examples"] == 8
    line = quick_rfm("evaluate", "--workdir", again, "--config.evaluation.autoattack=strong").line
    assert "config.evaluation.autoattack 'strong' is not one of none, plus, standard" in line


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (None, "there is no such file"),
        ({"x": np.zeros((8, 9, 8, 1))}, "need arrays of one shape (n, 8, 8, 1)"),
        ({"x": np.zeros((8, 8, 8, 1)), "z": np.zeros((9, 8, 8, 1))}, "need arrays of one shape"),
        ({"y": np.zeros(3)}, "got none with four axes"),
    ],
)
def test_saved_examples_that_do_not_fit_are_told(again, quick_rfm, tmp_path, arrays, says):
    path = tmp_path / "saved.npz"
    if arrays is not None:
        np.savez(path, **arrays)
    assert says in quick_rfm("attack", "--saved", path, "--workdir", again).line


def test_an_exported_model_of_other_data_is_told(again, quick_rfm, tmp_path):
    def model(params, x):
        return x.reshape(x.shape[0], -1) @ params

    exported.save(tmp_path / "m.npz", model, np.zeros((192, 10)), image_shape=(8, 8, 3))
    line = quick_rfm("attack", "--exported", tmp_path / "m.npz", "--workdir", tmp_path / "w").line
    assert "is for images (8, 8, 3), but" in line
    assert line.endswith("give the --config of its data")
    assert not (tmp_path / "w").exists(), "nothing is claimed for a model that does not fit"
    # Neither is the workdir of a training, also one of a version that did not export.
    for _ in range(2):
        line = quick_rfm("attack", "--exported", tmp_path / "m.npz", "--workdir", again).line
        assert "belongs to another config: config.model.exported" in line
        config = json.loads((again / "config.json").read_text())
        config["model"].pop("exported", None)
        (again / "config.json").write_text(json.dumps(config))
    assert quick_rfm("evaluate", "--workdir", again).status == 0


def test_flags_that_contradict_each_other_are_told(again, quick_rfm):
    line = quick_rfm("attack", "--saved", "x.npz", "--attack", "square", "--workdir", again).line
    assert "--saved replaces --attack" in line
    flags = ("--exported", "x.npz", "--checkpoint", "best")
    assert "an exported model is one checkpoint" in quick_rfm("evaluate", *flags).line
