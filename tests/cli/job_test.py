"""One command as several processes: the same results, and nothing lost when one is."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rfm.evaluation.records import processor

SECONDS = 280
TWO_DEVICES = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2"
ONE_DEVICE = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=1"


@pytest.fixture(scope="module")
def flags(tiny) -> tuple[str, ...]:
    return (*tiny, "--config.train.epochs=4")


@pytest.fixture(scope="module")
def undisturbed(rfm, flags, tmp_path_factory) -> Path:
    """One process with two devices."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    result = rfm("run", "--workdir", workdir, "--no-snapshots", *flags, XLA_FLAGS=TWO_DEVICES)
    assert result.status == 0, result
    return workdir


def address() -> str:
    """A free one for the coordinator."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def job(start) -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """`job(count, *arguments)`: so many processes with one device each."""
    started: list[subprocess.Popen[str]] = []

    def job(count: int, *arguments: str, only: tuple[int, ...] = ()) -> list[subprocess.Popen[str]]:
        shape = ("--coordinator", address(), "--processes", str(count))
        started.extend(
            start(*arguments, *shape, "--process", str(number), XLA_FLAGS=ONE_DEVICE)
            for number in only or range(count)
        )
        return started

    yield job
    for process in started:
        process.kill()
        process.wait()


def ended(job: list[subprocess.Popen[str]], *, within: float = SECONDS) -> list[tuple[str, str]]:
    """What the processes said, when all have ended."""
    end = time.monotonic() + within
    return [process.communicate(timeout=max(end - time.monotonic(), 0.1)) for process in job]


def lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_training(job: list[subprocess.Popen[str]], workdir: Path) -> None:
    """Until a snapshot has been validated."""
    end = time.monotonic() + SECONDS
    while lines(workdir) < 4:
        assert time.monotonic() < end, "nothing happens"
        assert [process.poll() for process in job] == [None] * len(job), ended(job)
        time.sleep(0.01)


def test_two_processes_do_what_one_with_two_devices_does(
    job, flags, undisturbed, tmp_path, assert_same_training
):
    workdir = tmp_path / "run"
    processes = job(2, "run", "--workdir", workdir, "--no-snapshots", *flags)
    (out, _), (other_out, other_err) = ended(processes)
    assert [process.returncode for process in processes] == [0, 0], (out, other_err)
    assert "Worst-case flatness of RLoss" in out
    assert "Err" not in other_out + other_err, "the first process talks"
    assert (workdir / "report.html").exists()
    assert_same_training(workdir, undisturbed)
    records = sorted(path.relative_to(undisturbed) for path in undisturbed.glob("records/*/*.json"))
    assert len(records) == 6, records
    for path in records:
        found, expected = (json.loads((w / path).read_text()) for w in (workdir, undisturbed))
        assert found["per_example"] == expected["per_example"], path
        assert found["protocol"]["device"] == {
            "platform": "cpu",
            "kind": processor(),
            "count": 2,
            "processes": 2,
        }


@pytest.mark.slow
def test_two_processes_read_their_own_parts_of_a_stream(
    job, rfm, flags, undisturbed, tmp_path, assert_same_training
):
    folder, workdir = tmp_path / "digits", tmp_path / "run"
    assert rfm("data", "convert", "digits", "--out", folder).status == 0
    streamed = (f"--config.data.source={folder}", "--config.data.stream=2")
    processes = job(2, "train", "--workdir", workdir, *flags, *streamed)
    said = ended(processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert_same_training(workdir, undisturbed)


def test_a_killed_process_ends_the_other_and_a_restart_resumes(
    job, rfm, flags, undisturbed, tmp_path, assert_same_training
):
    workdir = tmp_path / "run"
    processes = job(2, "train", "--workdir", workdir, *flags)
    wait_for_training(processes, workdir)
    processes[1].kill()
    killed = time.monotonic()
    (_, err), _ = ended(processes, within=20)
    assert time.monotonic() - killed < 10
    assert processes[0].returncode == 75
    assert "process 1 of this job has ended before its time" in err
    assert "Traceback" not in err
    # Another number of processes goes on.
    result = rfm("train", "--workdir", workdir, XLA_FLAGS=TWO_DEVICES)
    assert result.status == 0, result
    assert_same_training(workdir, undisturbed)


@pytest.mark.slow
def test_without_the_first_process_the_others_end(job, flags, tmp_path):
    workdir = tmp_path / "run"
    processes = job(2, "train", "--workdir", workdir, *flags)
    wait_for_training(processes, workdir)
    processes[0].kill()
    _, (_, err) = ended(processes, within=20)
    assert processes[1].returncode != 0
    assert "has ended before its time" in err or "another task died" in err


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_keeps_the_state(
    job, flags, undisturbed, tmp_path, assert_same_training
):
    workdir = tmp_path / "run"
    processes = job(2, "train", "--workdir", workdir, *flags)
    wait_for_training(processes, workdir)
    processes[1].send_signal(signal.SIGTERM)
    (_, err), _ = ended(processes, within=60)
    assert [process.returncode for process in processes] == [143, 143], err
    assert "state saved" in err
    processes = job(2, "train", "--workdir", workdir, *flags)[2:]
    ended(processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert_same_training(workdir, undisturbed)


def test_what_the_first_process_finds_wrong_is_said_once(job, tiny, undisturbed):
    before = (undisturbed / "config.json").read_bytes()
    processes = job(2, "train", "--workdir", undisturbed, *tiny, "--config.seed=5")
    (_, err), (_, other) = ended(processes, within=60)
    assert [process.returncode for process in processes] == [2, 2], (err, other)
    assert "belongs to another config: config.seed is 0 there and 5 here" in err
    assert "rfm" not in other
    assert (undisturbed / "config.json").read_bytes() == before


def test_batches_must_be_divisible_among_all_processes(job, tiny, tmp_path):
    command = ("train", "--workdir", tmp_path / "run", *tiny, "--config.train.batch_size=31")
    processes = job(2, *command)
    (_, err), (_, other) = ended(processes, within=60)
    assert [process.returncode for process in processes] == [2, 2]
    wanted = "batches of 31 cannot be cut evenly over the 2 devices of 2 processes"
    assert f"rfm: config.train.batch_size: {wanted}" in err
    assert f"rfm, process 1: config.train.batch_size: {wanted}" in other
    assert not (tmp_path / "run").exists()


LATE = """
import argparse, sys, time
from rfm.cli import job

address, number = sys.argv[1:]
flags = argparse.Namespace(
    coordinator=address, processes=2, process=int(number), distributed="auto"
)

def work():
    if number == "1":
        time.sleep(1.5)
        print("its own line", file=sys.stderr)
    return job.Outcome(2, agreed=False)

sys.exit(job.run(flags, work))
"""


def test_who_finds_the_same_wrong_later_can_still_say_so(start):
    """The first process takes JAX's service with it, which would abort the other one."""
    call = ("-c", LATE, address())
    processes = [start(*call, str(number), program=sys.executable) for number in range(2)]
    (_, err), (_, other) = ended(processes, within=60)
    assert [process.returncode for process in processes] == [2, 2], (err, other)
    assert other == "its own line\n"


def test_who_waits_for_the_others_says_so(job, tiny, tmp_path):
    (alone,) = job(2, "train", "--workdir", tmp_path / "run", *tiny, only=(1,))
    assert alone.stderr is not None
    line = alone.stderr.readline()
    assert line.startswith("rfm: waiting for the other processes at 127.0.0.1:"), line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--processes", "2"], "--coordinator, --processes and --process belong together"),
        (["--coordinator", "h:1", "--processes", "2", "--process", "2"], "must be from 0 to"),
        (["--coordinator", "host", "--processes", "2", "--process", "0"], "must be HOST:PORT"),
        (
            ["--coordinator=h:1", "--processes=2", "--process=0", "--distributed=off"],
            "--distributed off contradicts --coordinator",
        ),
        (["--distributed", "on"], "give --coordinator HOST:PORT --processes N --process I"),
        (["--distributed", "maybe"], "invalid choice: 'maybe'"),
    ],
)
def test_wrong_flags_are_one_line(quick_rfm, given, said):
    assert said in quick_rfm("train", *given).line


def test_one_process_may_say_that_it_is_alone(quick_rfm, trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"
    shape = ("--coordinator", coordinator, "--processes", "1", "--process", "0")
    result = quick_rfm("train", "--workdir", workdir, *shape)
    assert (result.status, result.err) == (0, ""), result
