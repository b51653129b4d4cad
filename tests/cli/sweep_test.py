"""Sweeps: what is planned, what becomes of jobs, and a real one on this machine."""

import fcntl
import io
import json
import os
import signal
import time
from pathlib import Path

import pytest

from rfm.cli.sweep import job as jobs
from rfm.cli.sweep.conductor import Conductor, may_try_again
from rfm.cli.sweep.executors import Slurm, State, environments
from rfm.cli.sweep.job import Job
from rfm.cli.sweep.plan import Planned, plan
from rfm.cli.sweep.table import SweepTable, progress, summary
from rfm.errors import UserError

SLOTS = [({}, None)]


# Plans.


def test_every_config_meets_every_method_and_seed(tmp_path):
    runs = plan("digits,cifar10_small", "at,awp-0.01", range(2), [], tmp_path)
    names = [run.name for run in runs]
    assert names[:4] == [
        "digits-at-seed0",
        "digits-awp-0.01-seed0",
        "cifar10_small-at-seed0",
        "cifar10_small-awp-0.01-seed0",
    ]
    assert names[4:] == [name.replace("seed0", "seed1") for name in names[:4]]
    assert len({run.digest for run in runs}) == 8
    assert runs[1].workdir == tmp_path / "digits-awp-0.01-seed0"
    command = " ".join(runs[5].command)
    assert "-m rfm run --config digits:awp-0.01" in command
    assert command.endswith("--config.seed=1 --distributed off")


def test_all_methods_and_those_of_the_paper_are_planned(tmp_path):
    everything = plan("digits", "all", range(1), [], tmp_path)
    paper = plan("digits", "paper", range(1), [], tmp_path)
    assert len(everything) > 80
    assert 70 <= len(paper) <= 74
    assert {run.name for run in paper} - {run.name for run in everything} == set()


def test_overrides_reach_every_run_and_make_it_another_one(tmp_path):
    (plain,) = plan("digits", None, range(1), [], tmp_path)
    (changed,) = plan("digits", None, range(1), ["--config.train.epochs=7"], tmp_path)
    assert "--config.train.epochs=7" in changed.command
    assert (changed.epochs, changed.name) == (7, plain.name)
    assert changed.digest != plain.digest


@pytest.mark.parametrize(
    ("configs", "methods", "message"),
    [
        ("nowhere", None, "no config 'nowhere'"),
        ("digits", "awp-0.01,bogus", "bogus"),
        ("digits", "all,at", "--methods all names all of them"),
        ("digits:at", "at", "name its method in one of them"),
        ("digits,digits", "at", "two runs of the sweep are called digits-at-seed0"),
    ],
)
def test_what_cannot_be_planned_is_said_before_anything_starts(configs, methods, message, tmp_path):
    with pytest.raises(UserError, match=message):
        plan(configs, methods, range(1), [], tmp_path)


# What becomes of jobs.


class Fake:
    """An executor whose jobs end as the test says."""

    seconds = 0.0

    def __init__(self) -> None:
        self.submitted: list[tuple[str, Job]] = []
        self.phases: dict[str, State] = {}

    def submit(self, job, name):
        number = str(len(self.submitted) + 1)
        self.submitted.append((name, job))
        self.phases[number] = State("running")
        return number

    def states(self, numbers):
        return {number: self.phases.get(number, State("gone")) for number in numbers}

    def end(self, number: str, status: int | None, line: str = "", reason: str = "") -> None:
        _, job = self.submitted[int(number) - 1]
        self.phases[number] = State("gone", reason)
        if status is not None:
            result = {"status": status, "line": line, "digest": job.digest, "seconds": 60.0}
            jobs.result_of(job.base).write_text(json.dumps(result))


@pytest.fixture
def runs(tmp_path) -> list[Planned]:
    return [
        Planned(name, tmp_path / name, ("true",), f"digest of {name}", 10) for name in ("a", "b")
    ]


def conductor(runs, executor, tmp_path, **changes):
    settings = {"slots": SLOTS, "retries": 2, **changes}
    return Conductor(runs, tmp_path / ".sweep", executor, **settings)


def phases(conducted: Conductor) -> list[str]:
    return [entry.phase for entry in conducted.entries]


def test_runs_follow_one_another_where_there_is_one_slot(runs, tmp_path):
    executor = Fake()
    conducted = conductor(runs, executor, tmp_path)
    conducted.step()
    conducted.step()
    assert phases(conducted) == ["running", "waiting"]
    executor.end("1", 0)
    conducted.step()
    assert phases(conducted) == ["done", "queued"]
    executor.end("2", 2, "rfm: config.data.extra: there is no such file")
    conducted.step()
    assert phases(conducted) == ["done", "failed"]
    assert conducted.has_ended
    assert conducted.entries[1].note == "rfm: config.data.extra: there is no such file"
    assert summary(conducted.entries) == "1 done, 1 failed"
    assert progress(conducted.entries[0]) == "0:01:00"
    # A later call does again what failed, and nothing else.
    again = conductor(runs, Fake(), tmp_path)
    assert phases(again) == ["done", "waiting"]


@pytest.mark.parametrize("status", [75, 143, 130, 137, -9, None])
def test_what_was_lost_is_tried_again_but_not_for_ever(status, runs, tmp_path):
    executor = Fake()
    conducted = conductor(runs[:1], executor, tmp_path)
    for number in ("1", "2", "3"):
        conducted.step()
        assert phases(conducted) == ["queued"]
        executor.end(number, status)
    conducted.step()
    conducted.step()
    assert phases(conducted) == ["failed"]
    assert "3 times" in conducted.entries[0].note
    assert len(executor.submitted) == 3


def test_wrong_configs_and_failed_training_are_not_tried_again():
    assert [may_try_again(status) for status in (1, 2, 75)] == [False, False, True]


def test_a_cancelled_job_is_not_started_again(runs, tmp_path):
    executor = Fake()
    conducted = conductor(runs[:1], executor, tmp_path)
    conducted.step()
    executor.end("1", 143, reason="cancelled")
    conducted.step()
    assert phases(conducted) == ["failed"]
    assert conducted.entries[0].note == "the job was cancelled"


def test_a_requeued_job_is_waited_for(runs, tmp_path):
    """Its first part ended with 143; Slurm itself has it in the queue again."""
    executor = Fake()
    conducted = conductor(runs[:1], executor, tmp_path)
    conducted.step()
    executor.end("1", 143)
    executor.phases["1"] = State("queued", "pending (BeginTime)")
    conducted.step()
    assert phases(conducted) == ["queued"]
    assert conducted.entries[0].note == "pending (BeginTime)"
    executor.end("1", 0)
    conducted.step()
    assert (phases(conducted), len(executor.submitted)) == (["done"], 1)


def test_jobs_of_an_earlier_call_are_found_and_not_started_twice(runs, tmp_path):
    executor = Fake()
    conductor(runs, executor, tmp_path).step()
    again = conductor(runs, executor, tmp_path)
    assert phases(again) == ["running", "waiting"]
    again.step()
    assert len(executor.submitted) == 1, "its slot is taken"
    executor.end("1", 0)
    again.step()
    assert phases(again) == ["done", "queued"]


def test_a_run_whose_lock_is_held_is_running_whoever_started_it(runs, tmp_path):
    conductor(runs[:1], Fake(), tmp_path).step()
    base = tmp_path / ".sweep" / "a"
    with jobs.lock_of(base).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        nobody_knows = Fake()
        again = conductor(runs[:1], nobody_knows, tmp_path)
        again.step()
        assert (phases(again), nobody_knows.submitted) == (["running"], [])


def test_another_config_is_another_run(runs, tmp_path):
    executor = Fake()
    conducted = conductor(runs[:1], executor, tmp_path)
    conducted.step()
    executor.end("1", 0)
    conducted.step()
    changed = [Planned("a", tmp_path / "a", ("true",), "another digest", 10)]
    assert phases(conductor(changed, Fake(), tmp_path)) == ["waiting"]


def test_a_damaged_file_is_as_none(runs, tmp_path):
    executor = Fake()
    conducted = conductor(runs[:1], executor, tmp_path)
    conducted.step()
    executor.end("1", 0)
    jobs.result_of(tmp_path / ".sweep" / "a").write_text("{")
    assert phases(conductor(runs[:1], Fake(), tmp_path)) == ["waiting"]


# Jobs.


def test_a_job_keeps_what_its_command_said_last_and_how_it_ended(tmp_path, capfd):
    script = "echo out; echo one >&2; echo 'rfm: no such thing' >&2; exit 2"
    job = Job(("sh", "-c", script), tmp_path / "run", "digest")
    assert job() == 2
    result = jobs.read(jobs.result_of(tmp_path / "run"))
    assert result is not None
    assert (result["status"], result["line"], result["digest"]) == (
        2,
        "rfm: no such thing",
        "digest",
    )
    assert not jobs.is_running(tmp_path / "run")
    assert "one" in capfd.readouterr().err
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_the_environment_of_a_job_can_be_set_and_cleared(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    script = 'echo "${CUDA_VISIBLE_DEVICES-unset} $RFM_TEST" >&2'
    environment = {"CUDA_VISIBLE_DEVICES": None, "RFM_TEST": "here"}
    Job(("sh", "-c", script), tmp_path / "run", "", environment)()
    result = jobs.read(jobs.result_of(tmp_path / "run"))
    assert result is not None
    assert result["line"] == "unset here"
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_gpus_and_processors_are_shared_out(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    shares = environments(2, 2, [0, 1, 2, 3])
    assert [env["CUDA_VISIBLE_DEVICES"] for env, _ in shares] == ["0,1", "2,3"]
    assert [cores for _, cores in shares] == [(0, 2), (1, 3)]
    assert environments(1, 0, [0, 1]) == [({"CUDA_VISIBLE_DEVICES": None}, None)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert environments(2, 1, [0])[1] == ({"CUDA_VISIBLE_DEVICES": "5"}, None)


# The table.


def test_the_table_has_what_matters_first(runs, tmp_path):
    from rich.console import Console

    executor = Fake()
    conducted = conductor(runs, executor, tmp_path, slots=SLOTS * 2)
    conducted.step()
    conducted.step()
    executor.end("2", 1, "the training loss is not finite at step 7")
    conducted.step()
    runs[0].workdir.mkdir()
    (runs[0].workdir / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2.5}\n')
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(SweepTable(console, conducted.entries).render(1))
    text = console.export_text()
    assert "the training loss is not finite" in text
    assert "and 1 more" in text
    assert "1 running, 1 failed" in text
    assert progress(conducted.entries[0]) == "epoch 2.5 of 10"


# The whole, on this machine.


def test_a_sweep_goes_on_after_it_was_killed(start, rfm, tiny, tmp_path):
    command = ("sweep", "--methods", "at,plain,unlabeled", "--workdir", tmp_path / "sweep", *tiny)
    process = start(*command, XLA_FLAGS="--xla_backend_optimization_level=0")
    first = tmp_path / "sweep" / "digits-at-seed0"
    end = time.monotonic() + 200
    while not (first / "metrics.jsonl").exists() or not (first / "metrics.jsonl").read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    process.wait()  # its jobs live on, and hold its pipes
    again = rfm(*command, XLA_FLAGS="--xla_backend_optimization_level=0")
    assert again.status == 1, again
    assert again.out.splitlines()[0].endswith("2 waiting, 1 running"), "found again"
    assert "digits-plain-seed0: done" in again.out
    assert (
        "digits-unlabeled-seed0 failed: rfm: ti_500K_pseudo_labeled.pickle: there is" in again.out
    )
    assert "2 done, 1 failed" in again.out
    submitted = list((tmp_path / "sweep" / ".sweep" / "logs").glob("*_submitted.pkl"))
    assert len(submitted) == 3, "none was started twice"
    for name in ("at", "plain"):
        assert (tmp_path / "sweep" / f"digits-{name}-seed0" / "report.html").exists()
    third = rfm(*command[:-1], command[-1])
    assert "digits-at-seed0" not in third.out
    assert "2 done" in third.out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--slurm-partition", "gpu"], "--slurm-partition is for --executor slurm"),
        (["--slurm", "mem"], "must be KEY=VALUE"),
        (["--hours", "-1"], "--hours must be positive"),
        (["--config.nothing=1"], "no field config.nothing"),
        (["--executor", "slurm"], "is this a login node?"),
        (["--executor", "pbs"], "invalid choice: 'pbs'"),
    ],
)
def test_wrong_flags_are_one_line(quick_rfm, given, said, tmp_path, monkeypatch):
    if "slurm" in given and Path("/usr/bin/srun").exists():
        pytest.skip("there is a Slurm here")
    assert said in quick_rfm("sweep", "--workdir", tmp_path / "x", *given).line


def test_the_folder_of_a_run_is_not_that_of_a_sweep(quick_rfm, trained):
    assert "is the workdir of one run" in quick_rfm("sweep", "--workdir", trained).line


def test_squeue_that_does_not_answer_changes_nothing(monkeypatch, tmp_path):
    slurm = Slurm.__new__(Slurm)
    (tmp_path / "squeue").write_text("#!/bin/sh\necho timed out >&2; exit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert slurm.states(["7"]) == {"7": State("running", "squeue does not answer")}
    (tmp_path / "squeue").write_text("#!/bin/sh\necho '7|PENDING|Resources'; echo '7|PENDING|x'\n")
    assert slurm.states(["7", "8"])["8"] == State("gone")
    assert slurm.states(["7"])["7"].phase == "queued"
