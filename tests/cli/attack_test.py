"""``rfm attack``, as the installed command."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest


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
    while not list(again.glob("records/*/attack-fab-t-train.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for workdir in (again, other):
        result = quick_rfm(*command, workdir)
        assert (result.status, result.err) == (0, ""), result
        assert not list(workdir.rglob("*.npz"))
    one, two = (record(workdir, "attack-fab-t-train") for workdir in (again, other))
    assert one["per_example"] == two["per_example"]


def test_an_unknown_attack_is_told(again, quick_rfm):
    line = quick_rfm("attack", "--attack", "autoatack", "--workdir", again).line
    assert "no attack 'autoatack' among autoattack, " in line
    assert line.endswith("did you mean autoattack?")
