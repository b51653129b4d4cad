"""A sweep on a real Slurm: controller and daemon on this machine, see helpers/slurm_cluster.py."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster

pytestmark = pytest.mark.slow

SECONDS = 240
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with slurm_cluster.slurm_cluster(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


@pytest.fixture
def ask(slurm) -> Callable[..., str]:
    def ask(*command: str) -> str:
        environment = {**os.environ, **slurm}
        said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        return said.stdout.strip()

    return ask


def wait_for(happened: Callable[[], object], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def metrics(workdir: Path) -> bytes:
    path = workdir / "metrics.jsonl"
    return path.read_bytes() if path.exists() else b""


def test_jobs_that_are_killed_and_requeued_end_as_if_nothing_had_been(
    start, rfm, tiny, slurm, ask, tmp_path
):
    flags = ("--methods", "at,plain", *tiny, "--config.train.epochs=12")
    undisturbed, sweep = tmp_path / "undisturbed", tmp_path / "sweep"
    command = ("sweep", "--executor", "slurm", "--cpus-per-run", "1", "--parallel", "1", *flags)
    process = start(*command, "--workdir", sweep, **slurm, **QUICK)
    killed, requeued = sweep / "digits-at-seed0", sweep / "digits-plain-seed0"

    wait_for(lambda: len(metrics(killed).splitlines()) > 2, "the first run trains")
    lock = sweep / ".sweep" / "digits-at-seed0.lock"
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    first = ask("squeue", "--noheader", "--states=all", "--format=%i")
    process.kill()  # the sweep itself, too: jobs go on without it
    process.wait()
    process = start(*command, "--workdir", sweep, **slurm, **QUICK)

    wait_for(lambda: len(metrics(requeued).splitlines()) > 2, "the second run trains")
    number = json.loads((sweep / ".sweep" / "digits-plain-seed0.job.json").read_text())["number"]
    ask("scontrol", "requeue", number)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, (out, err)
    assert "2 done" in out
    jobs = ask("squeue", "--noheader", "--states=all", "--format=%i").split()
    assert len(jobs) == 3, (first, jobs)
    assert "Restarts=1" in ask("scontrol", "show", "job", number)

    result = rfm("sweep", *flags, "--workdir", undisturbed, **QUICK)
    assert result.status == 0, result
    for workdir in (killed, requeued):
        # One core each: another number of devices, so equal but for rounding.
        found, expected = (
            [json.loads(line) for line in metrics(w).splitlines()]
            for w in (workdir, undisturbed / workdir.name)
        )
        for a, b in zip(found, expected, strict=True):
            assert (a["kind"], a["step"]) == (b["kind"], b["step"])
            assert a["loss"] == pytest.approx(b["loss"], rel=0.05)
        assert (workdir / "report.html").exists()


def test_slurm_that_refuses_is_told(rfm, tiny, slurm, tmp_path):
    command = ("sweep", "--executor", "slurm", "--slurm-partition", "nowhere", *tiny)
    result = rfm(*command, "--workdir", tmp_path / "sweep", **slurm)
    assert result.status == 2, result
    assert "sbatch refuses digits-at-seed0" in result.err
    assert "Traceback" not in result.err


def test_tasks_of_a_step_find_each_other(rfm, tiny, slurm, ask, environment, tmp_path):
    """Without any flag: JAX reads Slurm's environment, and rfm when to ask JAX."""
    workdir, alone = tmp_path / "run", tmp_path / "alone"
    flags = " ".join(map(str, tiny))
    script = tmp_path / "job.sh"
    flag = "--xla_force_host_platform_device_count"
    script.write_text(
        "#!/bin/bash\n"
        f"export HOME={environment['HOME']} XDG_CACHE_HOME={environment['XDG_CACHE_HOME']}\n"
        f"export JAX_PLATFORMS=cpu XLA_FLAGS='{flag}=1 {QUICK['XLA_FLAGS']}'\n"
        f"srun --ntasks=2 {sys.executable} -m rfm train --workdir {workdir} {flags}\n"
    )
    out = tmp_path / "out"
    number = ask("sbatch", "--parsable", "--ntasks=2", f"--output={out}", str(script))
    assert number, "submitted"
    ended = ("COMPLETED", "FAILED", "CANCELLED")
    wait_for(lambda: any(e in ask("scontrol", "show", "job", number) for e in ended), "it ends")
    assert "COMPLETED" in ask("scontrol", "show", "job", number), out.read_text()
    assert "peer ranks" in out.read_text(), "gloo says that there are two"
    with_two = {"XLA_FLAGS": f"{flag}=2 {QUICK['XLA_FLAGS']}"}
    assert rfm("train", "--workdir", alone, *tiny, **with_two).status == 0
    assert metrics(workdir) == metrics(alone)
