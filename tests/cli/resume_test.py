"""A run that is killed, stopped, damaged or out of room goes on, and ends the same.

"The same" is bit for bit: the final state, and every byte of metrics.jsonl.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rfm import workdir as workdirs
from rfm.training.checkpoint import Checkpoints

EPOCHS = 6  # each epoch ends with a snapshot
SECONDS = 240


@pytest.fixture(scope="module")
def flags(tiny) -> tuple[str, ...]:
    return (*tiny, f"--config.train.epochs={EPOCHS}")


@pytest.fixture(scope="module")
def undisturbed(quick_rfm, flags, trained, tmp_path_factory) -> Path:
    """The workdir of a run that nobody disturbed; `trained` has filled the cache before."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    result = quick_rfm("train", "--workdir", workdir, *flags)
    assert (result.status, result.err) == (0, ""), result
    return workdir


@pytest.fixture
def workdir(tmp_path) -> Path:
    return tmp_path / "run"


def lines(workdir: Path) -> int:
    """Metrics lines so far."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def writes_checkpoint(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*tmp*"))


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> bool:
    """Until it has happened (true), or the process has ended."""
    start = time.monotonic()
    while process.poll() is None:
        if happened():
            return True
        assert time.monotonic() - start < SECONDS, "nothing happens"
        time.sleep(0.001)
    return False


def test_killed_at_any_instant_it_ends_bit_identical(
    start, rfm, flags, undisturbed, workdir, assert_same_training
):
    rng, kills, started, before = random.Random(0), [], 0.0, 0

    def seconds(least: float, most: float) -> Callable[[], bool]:
        moment = rng.uniform(least, most)
        return lambda: time.monotonic() > started + moment

    def some_line() -> Callable[[], bool]:
        number = rng.randrange(1, 6)
        return lambda: lines(workdir) > before + number

    moments = {
        "at startup": seconds(0.1, 2),
        "before the first step": lambda: (workdir / "config.json").exists(),
        "writing a checkpoint": lambda: lines(workdir) > before and writes_checkpoint(workdir),
        "after some line": some_line(),
        "writing another": lambda: lines(workdir) > 12 and writes_checkpoint(workdir),
    }
    for name, moment in moments.items():
        before, started = lines(workdir), time.monotonic()
        process = start("train", "--workdir", workdir, *flags)
        if wait_for(process, moment):
            process.kill()
        out, err = process.communicate(timeout=SECONDS)
        assert "Traceback" not in out + err, (name, out, err)
        if process.returncode == -signal.SIGKILL:
            kills.append(name)
    assert len(kills) >= 4, f"it was killed only {kills}"
    result = rfm("train", "--workdir", workdir, *flags)
    assert (result.status, result.err) == (0, ""), result
    assert_same_training(workdir, undisturbed)
    leftovers = [p.name for p in (workdir / "checkpoints").iterdir() if not p.name.isdecimal()]
    assert not leftovers, "what a killed process was writing is cleaned up"


def test_sigterm_saves_and_goes(
    start, quick_rfm, flags, undisturbed, workdir, assert_same_training
):
    process = start("train", "--workdir", workdir, *flags)
    assert wait_for(process, lambda: lines(workdir) >= 3)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, (out, err)
    assert time.monotonic() - sent < 30
    assert "Traceback" not in out + err
    assert "state saved; the same command goes on" in err
    step = int(err.split("stopped at step ")[1].split()[0])
    with Checkpoints(workdir / "checkpoints", snapshot_steps=5, read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == step, "the state of that very step"
    result = quick_rfm("train", "--workdir", workdir)  # the config is the workdir's own
    assert (result.status, result.err) == (0, ""), result
    assert_same_training(workdir, undisturbed)


def test_sigint_twice_ends_it_at_once(start, flags, trained, workdir):
    process = start("train", "--workdir", workdir, *flags)
    assert wait_for(process, lambda: lines(workdir) >= 1)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in out + err
    assert "the same command goes on" in err


def test_sigterm_before_there_is_anything_to_save(start, flags, workdir):
    process = start("train", "--workdir", workdir, *flags, JAX_ENABLE_COMPILATION_CACHE="false")
    assert wait_for(process, (workdir / "config.json").exists)
    process.send_signal(signal.SIGTERM)  # it compiles now, which takes a while
    sent = time.monotonic()
    assert process.wait(SECONDS) == 143
    assert time.monotonic() - sent < 3
    out, err = process.communicate()
    assert err == "rfm: stopped; the same command goes on\n"


def cut_back(source: Path, workdir: Path, steps: int) -> None:
    """A copy of a run as if killed after the checkpoint of `steps`, with lines beyond it."""
    shutil.copytree(source, workdir)
    for checkpoint in (workdir / "checkpoints").iterdir():
        if int(checkpoint.name) > steps:
            shutil.rmtree(checkpoint)


def arrays(workdir: Path, step: int) -> list[Path]:
    return [p for p in (workdir / "checkpoints" / str(step)).rglob("d/*") if p.is_file()]


def test_damaged_newest_checkpoints(quick_rfm, flags, undisturbed, workdir, assert_same_training):
    cut_back(undisturbed, workdir, 25)
    for file in arrays(workdir, 25):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for file in arrays(workdir, 20):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data)
    result = quick_rfm("train", "--workdir", workdir, *flags)
    assert result.status == 0, result
    told = result.err.splitlines()
    assert len(told) == 2, result.err
    for line, step in zip(told, (25, 20), strict=True):
        assert line.startswith(f"rfm: checkpoint {workdir}/checkpoints/{step} "), line
        assert line.endswith("using the one of step 15"), line
        assert (workdir / "damaged" / str(step)).is_dir()
    assert_same_training(workdir, undisturbed)


def test_loss_that_is_not_finite(quick_rfm, tiny, workdir):
    command = ("train", "--workdir", workdir, *tiny, "--config.optimiser.learning_rate=1e30")
    result = quick_rfm(*command)
    assert result.status == 1, result
    assert "Traceback" not in result.out + result.err
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("rfm: the training loss is not finite at step 2; "), result
    assert "the state of step 0 is kept" in result.err
    with Checkpoints(workdir / "checkpoints", snapshot_steps=5, read_only=True) as checkpoints:
        assert checkpoints.steps() == [0]


def test_two_processes_do_not_train_in_one_workdir(quick_rfm, flags, undisturbed, workdir):
    cut_back(undisturbed, workdir, 25)
    with workdirs.locked(workdir):
        line = quick_rfm("train", "--workdir", workdir).line
    assert f"another process is training in {workdir}" in line


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own, with as much room as one says."""
    if sys.platform != "linux":
        pytest.skip("needs Linux: a tmpfs as a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount; be root, or in `unshare -rm`: {mounted.stderr}")

    def room(size: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
        return disk

    yield room
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("size", ["100k", "500k"])
def test_no_space_left(size, quick_rfm, flags, undisturbed, small_disk, assert_same_training):
    """For the first checkpoint, or for a later one; with room it goes on."""
    workdir = small_disk(size) / "run"
    command = ("train", "--workdir", workdir, *flags)
    line = quick_rfm(*command).line
    assert "No space left on device" in line
    assert str(workdir) in line
    saved = [p.name for p in workdir.glob("checkpoints/*") if p.name.isdecimal()]
    assert bool(saved) == (size == "500k")
    if size == "500k":
        small_disk("50m")
        result = quick_rfm(*command)
        assert (result.status, result.err) == (0, ""), result
        assert_same_training(workdir, undisturbed)
