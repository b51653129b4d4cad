"""Sweeps: what is planned, what becomes of jobs, and a real one on this machine."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rfm.cli.sweep import job as jobs
from rfm.cli.sweep.conductor import Conductor, may_try_again
from rfm.cli.sweep.executors import Refused, Slurm, State
from rfm.cli.sweep.job import Job
from rfm.cli.sweep.plan import Planned, plan
from rfm.cli.sweep.slots import slots
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
    assert " ".join(runs[5].shown) == (
        f"rfm run --config digits:awp-0.01 --workdir {tmp_path}/digits-awp-0.01-seed1"
        " --config.seed=1"
    )
    assert " ".join(runs[5].command).endswith(f"run --workdir {runs[5].workdir} --distributed off")
    assert (runs[5].config["name"], runs[5].config["seed"]) == ("awp-0.01", 1)


def test_all_methods_and_those_of_the_paper_are_planned(tmp_path):
    everything = plan("digits", "all", range(1), [], tmp_path)
    paper = plan("digits", "paper", range(1), [], tmp_path)
    assert len(everything) > 80
    assert 70 <= len(paper) <= 74
    assert {run.name for run in paper} - {run.name for run in everything} == set()


def test_overrides_reach_every_run_and_make_it_another_one(tmp_path):
    (plain,) = plan("digits", None, range(1), [], tmp_path)
    (changed,) = plan("digits", None, range(1), ["--config.train.epochs=7"], tmp_path)
    assert changed.config["train"]["epochs"] == 7
    assert (changed.epochs, changed.name) == (7, plain.name)
    assert changed.digest != plain.digest


def test_flags_reach_every_run_and_what_they_left_out_is_done_later(tmp_path):
    (without,) = plan("digits", None, range(1), [], tmp_path, flags=["--no-snapshots"])
    (plain,) = plan("digits", None, range(1), [], tmp_path)
    assert without.command == (*plain.command, "--no-snapshots")
    assert without.shown == (*plain.shown, "--no-snapshots")
    assert without.digest != plain.digest
    assert without.config == plain.config


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

    name = "local"
    seconds = 0.0

    def __init__(self, patience: float = 0.0) -> None:
        self.patience = patience
        self.refuses = False
        self.submitted: list[tuple[str, Job]] = []
        self.phases: dict[str, State] = {}

    def submit(self, job, name):
        if self.refuses:
            raise Refused(f"sbatch refuses {name}: too many jobs")
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
        Planned(name, tmp_path / name, {"name": name, "train": {"epochs": 10}})
        for name in ("a", "b")
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


@pytest.mark.parametrize("status", [143, 130, 137, -9, None])
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
    assert [may_try_again(status) for status in (1, 2, jobs.BUSY)] == [False, False, True]


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
    changed = [Planned("a", tmp_path / "a", {"name": "a", "seed": 3, "train": {"epochs": 10}})]
    again = conductor(changed, Fake(), tmp_path)
    assert phases(again) == ["waiting"]
    again.step()
    assert phases(again) == ["failed"]
    assert "belongs to another config" in again.entries[0].note


def test_a_job_of_another_config_is_not_started_beside(runs, tmp_path):
    executor = Fake()
    conductor(runs[:1], executor, tmp_path).step()
    changed = [Planned("a", tmp_path / "a", {"name": "a", "seed": 3, "train": {"epochs": 10}})]
    with pytest.raises(UserError, match="job 1 of another config of a still runs"):
        conductor(changed, executor, tmp_path)


def test_another_executor_asks_what_became_of_the_job_of_the_first(runs, tmp_path):
    slurm = Fake()
    slurm.name = "slurm"
    conductor(runs[:1], slurm, tmp_path).step()
    with pytest.raises(UserError, match="a may still be job 1 of Slurm"):
        conductor(runs[:1], Fake(), tmp_path)
    slurm.end("1", 143)
    assert phases(conductor(runs[:1], Fake(), tmp_path)) == ["waiting"]


def test_progress_counts_when_machines_are_lost(runs, tmp_path):
    executor = Fake()
    conducted = conductor(runs[:1], executor, tmp_path, retries=1)
    for number in range(1, 6):
        conducted.step()
        with (runs[0].workdir / "metrics.jsonl").open("a") as file:
            file.write("{}\n")
        executor.end(str(number), 143)
    conducted.step()
    assert phases(conducted) == ["queued"], "each of them came further"


def test_a_result_may_take_a_while_to_be_seen(runs, tmp_path):
    executor = Fake(patience=1e9)
    conducted = conductor(runs[:1], executor, tmp_path)
    conducted.step()
    executor.end("1", None)
    for _ in range(3):
        conducted.step()
    assert (phases(conducted), len(executor.submitted)) == (["queued"], 1)
    executor.end("1", 0)
    conducted.step()
    assert phases(conducted) == ["done"]


def test_a_result_of_another_config_does_not_count(runs, tmp_path):
    executor = Fake()
    conducted = conductor(runs[:1], executor, tmp_path, retries=0)
    conducted.step()
    executor.end("1", 0)
    path = jobs.result_of(tmp_path / ".sweep" / "a")
    path.write_text(path.read_text().replace(runs[0].digest, "another"))
    conducted.step()
    conducted.step()
    assert phases(conducted) == ["failed"]


def test_a_refused_job_is_submitted_later_unless_it_is_the_first(runs, tmp_path, monkeypatch):
    executor = Fake()
    executor.refuses = True
    with pytest.raises(UserError, match="too many jobs"):
        conductor(runs, executor, tmp_path, slots=SLOTS * 2).step()
    executor.refuses = False
    conducted = conductor(runs, executor, tmp_path)
    conducted.step()
    executor.end("1", 0)
    executor.refuses = True
    conducted.step()
    assert phases(conducted) == ["done", "waiting"]
    assert "too many jobs" in conducted.entries[1].note
    executor.refuses = False
    conducted.step()
    assert phases(conducted) == ["done", "waiting"], "not at once"
    conducted._next_submission = 0.0
    conducted.step()
    assert phases(conducted) == ["done", "queued"]


def test_runs_that_are_found_again_keep_their_share(runs, tmp_path):
    executor = Fake()
    two = SLOTS * 2
    first = conductor(runs, executor, tmp_path, slots=two)
    first.step()
    executor.end("1", 0)
    again = conductor(runs, executor, tmp_path, slots=two)
    assert [entry.slot for entry in again.entries] == [None, 1]


def test_a_damaged_file_is_as_none(runs, tmp_path):
    executor = Fake()
    conducted = conductor(runs[:1], executor, tmp_path)
    conducted.step()
    executor.end("1", 0)
    jobs.result_of(tmp_path / ".sweep" / "a").write_text("{")
    assert phases(conductor(runs[:1], Fake(), tmp_path)) == ["waiting"]


# Jobs.


@pytest.fixture
def signals():
    """A job changes handlers of its process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_job_keeps_what_its_command_said_last_and_how_it_ended(tmp_path, signals):
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
    assert (tmp_path / "run.err").read_text() == "one\nrfm: no such thing\n"
    assert (tmp_path / "run.out").read_text() == "out\n"


def test_sigterm_to_the_job_alone_reaches_the_run(tmp_path, signals):
    script = "trap 'echo saved >&2; exit 143' TERM; kill -TERM $PPID; while :; do sleep 0.05; done"
    assert Job(("sh", "-c", script), tmp_path / "run", "")() == 143
    result = jobs.read(jobs.result_of(tmp_path / "run"))
    assert result is not None
    assert result["line"] == "saved"


def test_signals_for_the_job_do_not_end_the_run(tmp_path, signals):
    script = "kill -USR2 $$; kill -USR1 $$; kill -HUP $$; exit 7"
    assert Job(("sh", "-c", script), tmp_path / "run", "")() == 7


def test_a_run_holds_its_lock_also_when_its_job_is_gone(tmp_path):
    base, code = tmp_path / "run", "from rfm.cli.sweep.job import Job; from pathlib import Path; "
    code += f"Job(('sleep', '30'), Path({str(base)!r}), '')()"
    job = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 60
    while (number := jobs.process_here(base)) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    job.kill()
    job.wait()
    assert jobs.is_running(base)
    os.kill(number, signal.SIGKILL)
    while jobs.is_running(base):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_jobs_do_not_do_the_same_run(tmp_path, monkeypatch, signals):
    monkeypatch.setattr(jobs, "_LOCK_SECONDS", 0.3)
    with jobs.lock_of(tmp_path / "run").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert Job(("true",), tmp_path / "run", "")() == jobs.BUSY


def test_the_environment_of_a_job_can_be_set_and_cleared(tmp_path, monkeypatch, signals):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    script = 'echo "${CUDA_VISIBLE_DEVICES-unset} $RFM_TEST" >&2'
    environment = {"CUDA_VISIBLE_DEVICES": None, "RFM_TEST": "here"}
    Job(("sh", "-c", script), tmp_path / "run", "", environment)()
    result = jobs.read(jobs.result_of(tmp_path / "run"))
    assert result is not None
    assert result["line"] == "unset here"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    def machine(*, cores=4, gpus=0, visible=None):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        smi = tmp_path / "nvidia-smi"
        smi.write_text("#!/bin/sh\n" + "".join(f"echo 'GPU {i}: H100'\n" for i in range(gpus)))
        smi.chmod(0o755)
        path = f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin" if gpus else "/usr/bin:/bin"
        monkeypatch.setenv("PATH", path)

    return machine


def test_gpus_and_processors_are_shared_out(machine):
    machine(gpus=4)
    shares = slots(2, gpus=2)
    assert [env["CUDA_VISIBLE_DEVICES"] for env, _ in shares] == ["0,1", "2,3"]
    assert [cores for _, cores in shares] == [(0, 2), (1, 3)]
    assert slots(1) == [({"CUDA_VISIBLE_DEVICES": None}, None)]
    machine(gpus=4, visible="4,5,6,7")
    assert slots(2, gpus=1)[1][0] == {"CUDA_VISIBLE_DEVICES": "5"}
    machine()
    assert [cores for _, cores in slots(2, cpus=1)] == [(0,), (1,)]
    assert slots(1, cpus=3)[0][1] == (0, 1, 2)


@pytest.mark.parametrize(
    ("has", "asked", "message"),
    [
        ({"gpus": 4}, {"parallel": 2}, "--parallel 2 on 4 GPUs: say how many each run gets"),
        ({"gpus": 4}, {"parallel": 3, "gpus": 2}, "needs 6 GPUs; there are 4"),
        ({"gpus": 4, "visible": ""}, {"parallel": 1, "gpus": 1}, "needs 1 GPUs; there are 0"),
        ({}, {"parallel": 1, "gpus": 1}, "needs 1 GPUs; there are 0"),
        ({"cores": 2}, {"parallel": 2, "cpus": 2}, "needs 4 processors; there are 2"),
    ],
)
def test_no_more_is_shared_out_than_there_is(machine, has, asked, message):
    machine(**has)
    with pytest.raises(UserError, match=message):
        slots(**asked)


# The table.


def test_the_table_has_what_matters_first(runs, tmp_path):
    from rich.console import Console

    executor = Fake()
    conducted = conductor(runs, executor, tmp_path, slots=SLOTS * 2)
    conducted.step()
    conducted.step()
    executor.end("2", 1, "the training loss is not finite at step 7")
    conducted.step()
    (runs[0].workdir / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2.5}\n')
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(SweepTable(console, conducted.entries).render(1))
    text = console.export_text()
    assert "the training loss is not finite" in text
    assert "and 1 more" in text
    assert "1 running, 1 failed" in text
    assert progress(conducted.entries[0]) == "epoch 2.5 of 10"


# The whole, on this machine.


def wait_for_metrics(process, path):
    end = time.monotonic() + 200
    while not path.exists() or not path.read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_lets_runs_save_and_the_same_command_goes_on(start, rfm, tiny, tmp_path):
    sweep = tmp_path / "a sweep"
    command = ("sweep", "--workdir", sweep, *tiny, "--config.train.epochs=40")
    process = start(*command, start_new_session=True)
    run = sweep / "digits-at-seed0"
    wait_for_metrics(process, run / "metrics.jsonl")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert "stopped; the same command goes on" in out
    assert "rfm: stopping..." in err
    assert not jobs.is_running(sweep / ".sweep" / "digits-at-seed0")
    saved = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert 0 < saved < 200
    assert f"stopped at step {saved} of 200; state saved" in (
        sweep / ".sweep" / "digits-at-seed0.err"
    ).read_text().replace("\n", " ")
    assert rfm(*command).status == 0


def test_a_sweep_goes_on_after_it_was_killed(start, rfm, tiny, tmp_path):
    command = ("sweep", "--methods", "at,plain,unlabeled", "--workdir", tmp_path / "sweep", *tiny)
    process = start(*command, XLA_FLAGS="--xla_backend_optimization_level=0")
    first = tmp_path / "sweep" / "digits-at-seed0"
    wait_for_metrics(process, first / "metrics.jsonl")
    process.kill()
    process.wait()  # its jobs live on
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
    third = rfm(*command)
    assert "digits-at-seed0" not in third.out
    assert "2 done" in third.out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--slurm-partition", "gpu"], "--slurm-partition is for --executor slurm"),
        (["--slurm", "mem"], "must be KEY=VALUE"),
        (["--hours", "0"], "--hours must be from 0.1 to a year"),
        (["--config.seed=7"], "a sweep has --seeds N"),
        (["--config.nothing=1"], "no field config.nothing"),
        (["--config.model.weights=x.pt"], "x.pt is only measured: rfm run does that"),
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
