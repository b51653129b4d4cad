"""What each verb does, and what it leaves to others: everything over one workdir."""

import fcntl
import importlib.util
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROWS = [
    "Err (%)",
    "RErr (%)",
    "Loss",
    "RLoss",
    "Average-case flatness of Loss",
    "Average-case flatness of RLoss",
    "Worst-case flatness of Loss",
    "Worst-case flatness of RLoss",
]


def modified(workdir: Path) -> dict[str, int]:
    """When each record was written; the state of a record is in its file alone."""
    return {
        str(path.relative_to(workdir)): path.stat().st_mtime_ns
        for path in workdir.glob("records/*/*.json")
    }


def rows(out: str) -> list[str]:
    """The first cells of the table's rows that have numbers."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    return [row[0] for row in cells if len(row) > 1 and row[0] in ROWS]


def table(out: str) -> str:
    """From the title to where the report is."""
    return out[out.index("Results of") : out.index("report: ")]


@pytest.fixture(scope="module")
def measured(start, rfm, tiny, trained, tmp_path_factory) -> tuple[Path, str]:
    """A workdir after `rfm run`, killed once while measuring; and what the second said."""
    workdir = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(trained, workdir)
    command = ("run", "--workdir", workdir, *tiny)
    process = start(*command)
    while len(modified(workdir)) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = modified(workdir)
    result = rfm(*command)
    assert (result.status, result.err) == (0, ""), result
    after = modified(workdir)
    assert {name: after[name] for name in before} == before, "finished records are kept"
    assert len(after) > len(before)
    return workdir, result.out


def test_run_prints_one_table_and_where_the_report_is(measured):
    workdir, out = measured
    assert rows(out) == ROWS
    assert out.count("Results of at") == 1
    assert out.splitlines()[0] == f"at on digits, 2 x cpu, workdir {workdir}"
    assert out.splitlines()[-1] == f"report: {workdir / 'report.html'}"
    assert (workdir / "report.html").read_text().startswith("<!doctype html>")


def test_every_value_has_a_standard_error(measured):
    table = [line for line in measured[1].splitlines() if line.strip().startswith(tuple(ROWS))]
    assert len(table) == 8
    for line in table:
        assert len(re.findall(r"\d ± \d", line)) == (2 if "flatness" not in line else 1), line


def test_records_are_complete(measured):
    workdir, _ = measured
    names = sorted(name.removeprefix("records/") for name in modified(workdir))
    final = [f"flatness-{c}-{v}-test" for c in ("average", "worst") for v in ("loss", "rloss")]
    final += ["evaluation-test", "evaluation-train"]
    small = [*final, "curvature-loss-test"]
    expected = [f"00000015/{name}.json" for name in final]
    expected += [f"000000{s}/{n}-snapshot.json" for s in ("05", "10", "15") for n in small]
    assert names == sorted(expected)
    assert not list(workdir.rglob("records/*/.*")), "no half-written files"


@pytest.fixture
def again(measured, tmp_path) -> Path:
    """A copy of `measured`, with its times."""
    return Path(shutil.copytree(measured[0], tmp_path / "run"))


def test_run_again_takes_everything_from_disk(measured, again, quick_rfm, contents):
    before, times = contents(again), modified(again)
    # From another directory, by a relative path, and by the config in the workdir.
    result = quick_rfm("run", "--workdir", "run", cwd=again.parent)
    assert (result.status, result.err) == (0, ""), result
    assert modified(again) == times
    assert contents(again) == before, "also the report: the same bytes"
    assert table(result.out) == table(measured[1])
    assert result.out.splitlines()[-1] == f"report: {again / 'report.html'}"


def test_report_needs_no_data_and_no_checkpoints(again, quick_rfm, contents):
    before = contents(again)
    shutil.rmtree(again / "checkpoints")
    (again / "report.html").unlink()
    result = quick_rfm("report", "--workdir", again)
    assert (result.status, result.err) == (0, ""), result
    assert rows(result.out) == ROWS
    after = contents(again)
    assert after == {k: v for k, v in before.items() if not k.startswith("checkpoints")}


def without(part: str) -> Callable[[str], str]:
    return lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != part})


DAMAGES = {
    "00000015/evaluation-test": lambda text: text[: len(text) // 2],
    "00000015/evaluation-train": lambda text: "",
    "00000015/flatness-average-loss-test": lambda text: "[]",
    "00000015/flatness-average-rloss-test": lambda text: "\x00\xff" * 50,
    "00000015/flatness-worst-loss-test": without("values"),
    "00000015/flatness-worst-rloss-test": lambda text: text.replace('"schema": 1', '"schema": 0'),
    "00000015/evaluation-test-snapshot": without("per_example"),
    "00000010/evaluation-test-snapshot": without("protocol"),
    "00000010/flatness-worst-rloss-test-snapshot": lambda text: "null",
}


def test_damaged_records_and_only_they_are_measured_again(again, quick_rfm):
    whole = {f"records/{name}.json": damage for name, damage in DAMAGES.items()}
    for name, damage in whole.items():
        whole[name] = (again / name).read_text()
        (again / name).write_text(damage(whole[name]))
    times = modified(again)
    result = quick_rfm("flatness", "--workdir", again)
    assert (result.status, result.err) == (0, ""), result
    assert {name for name, when in modified(again).items() if when != times[name]} == set(whole)
    for name, text in whole.items():
        found, expected = json.loads((again / name).read_text()), json.loads(text)
        for part in ("values", "per_example"):
            assert found[part] == expected[part], name


def test_report_names_damaged_records(again, quick_rfm):
    (again / "records/00000015/evaluation-test.json").write_text("{")
    result = quick_rfm("report", "--workdir", again)
    assert result.status == 0, result
    assert "Traceback" not in result.err
    assert "evaluation-test.json" in result.err
    assert "evaluation-test.json" in (again / "report.html").read_text()


def test_evaluate_best_is_early_stopping(again, quick_rfm):
    lines = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["kind"] == "validation"]
    best = min(validations, key=lambda line: (line["rerr"], line["step"]))["step"]
    times = modified(again)
    result = quick_rfm("evaluate", "--workdir", again, "--checkpoint", "best", "--again")
    assert (result.status, result.err) == (0, ""), result
    new = {name for name, when in modified(again).items() if times.get(name) != when}
    assert new == {f"records/{best:08d}/evaluation-{split}.json" for split in ("test", "train")}
    record = json.loads((again / f"records/{best:08d}/evaluation-test.json").read_text())
    assert (record["step"], record["checkpoint"]) == (best, "best")


def test_early_stopping_is_measured_beside_the_final_checkpoint(again, quick_rfm):
    metrics = again / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "validation":
            line["rerr"] = 0.1 if line["step"] == 10 else 0.2
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ("--no-snapshots", "--config.evaluation.early_stopping=True")
    result = quick_rfm("flatness", "--workdir", again, *flags)
    assert (result.status, result.err) == (0, ""), result
    for name in ("evaluation-test", "flatness-average-rloss-test", "flatness-worst-loss-test"):
        record = json.loads((again / f"records/00000010/{name}.json").read_text())
        assert (record["checkpoint"], record["snapshot"]) == ("best", False)
    final = json.loads((again / "records/00000015/evaluation-test.json").read_text())
    assert final["checkpoint"] == "final"
    assert f"{100 * final['values']['rerr']['value']:.1f}" in result.out


def test_a_damaged_snapshot_is_left_out(again, quick_rfm):
    for path in (again / "checkpoints/5/state").rglob("d/*"):
        path.write_bytes(b"")
    result = quick_rfm("flatness", "--workdir", again)
    assert result.status == 0, result
    assert result.err.count("\n") == 1, result.err
    assert "checkpoints/5 " in result.err
    assert "left out" in result.err
    assert (again / "checkpoints/5").is_dir(), "only training moves checkpoints"


def test_names_with_spaces_and_brackets_come_out_whole(again, quick_rfm, tmp_path):
    odd = again.rename(tmp_path / "mein [red]Lauf ü")
    result = quick_rfm("report", "--workdir", odd)
    assert (result.status, result.err) == (0, ""), result
    assert result.out.splitlines()[-1] == f"report: {odd / 'report.html'}"


def test_a_terminal_without_unicode(again, rfm):
    result = rfm("report", "--workdir", again, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (result.status, result.err) == (0, ""), result
    assert [row for row in ROWS if f"| {row} " in result.out] == ROWS
    assert result.out.isascii()


def test_no_device(again, rfm):
    line = rfm("evaluate", "--workdir", again, JAX_PLATFORMS="nonsense").line
    assert "JAX finds no device with JAX_PLATFORMS='nonsense'" in line


def test_a_log_has_lines_of_progress(log_of_training):
    assert "\x1b" not in log_of_training
    last = log_of_training.splitlines()[-1]
    assert re.fullmatch(r"train: 15/15 epoch 3\.0  RLoss \d\.\d{3}  RErr \d+\.\d%", last), last


def on_a_terminal(command: list[str], environment: dict[str, str], columns: int) -> str:
    """What a command writes to a terminal of so many columns."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {k: v for k, v in environment.items() if k != "COLUMNS"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**variables, "TERM": "xterm"}
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            chunk = os.read(mine, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        written += chunk
    os.close(mine)
    assert process.wait(60) == 0, written
    return written.decode()


def test_a_terminal_has_a_bar_with_loss_error_and_time_left(environment, tiny, tmp_path):
    columns = 80
    command = [Path(sys.executable).parent / "rfm", "train", "--workdir", tmp_path / "a", *tiny]
    written = on_a_terminal([str(part) for part in command], environment, columns)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    bars = [line for line in re.split(r"[\r\n]+", plain) if line.startswith("train")]
    assert any(re.search(r"RLoss \d", b) and re.search(r"RErr \d", b) for b in bars), bars
    assert any(re.search(r"left \d:\d\d:\d\d", b) for b in bars), bars
    assert all(len(line) <= columns for line in bars), bars
    assert "compiling" in plain, "something moves from the start"


def test_data_show(quick_rfm, tmp_path):
    result = quick_rfm("data", "show", "digits")
    assert (result.status, result.err) == (0, ""), result
    assert "1297 training and 500 test images of 8x8x1, 10 classes" in result.out
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    np.savez(
        tmp_path / "my.npz",
        x_train=pixels,
        y_train=np.arange(30) % 3,
        x_test=pixels[:10],
        y_test=np.arange(10) % 3,
        class_names=["ant", "bee", "[bold]cat"],
    )
    result = quick_rfm("data", "show", "my.npz", cwd=tmp_path)
    assert result.out == (
        "my.npz: 30 training and 10 test images of 8x8x3, 3 classes (ant, bee, [bold]cat)\n"
    )


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None,
    reason="shows what is said without TensorFlow: pip uninstall tensorflow tensorflow-cpu",
)
def test_data_prepare_without_tensorflow(rfm):
    line = rfm("data", "prepare", "cifar10").line
    assert "needs TensorFlow" in line
    assert "pip install 'robust-flat-minima[prepare]'" in line


def test_version(quick_rfm):
    assert re.fullmatch(r"rfm \d+\.\d+\S*\n", quick_rfm("--version").out)
