"""Slurm's batch scripts, on a cluster that pretends."""

import os
import re
import signal
from pathlib import Path
from unittest import mock

import pytest
from rfm.configs import methods

LAUNCH = Path(__file__).parents[2] / "launch"
JOB = {"SLURM_JOB_ID": "42", "SLURM_CPUS_PER_TASK": "4"}
TASK = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "5"}
REQUEUED = ["scontrol", "requeue", "42"]


@pytest.fixture
def slurm(fake):
    """A cluster whose srun runs the command once, and whose job is RUNNING or as said."""

    def cluster(status=0, state="RUNNING"):
        fake("srun", 'while [[ $1 == --* ]]; do shift; done; "$@"')
        fake("squeue", f"echo {state}")
        fake("scontrol")
        fake("rfm", "exit_next", statuses=[status])
        return fake

    return cluster


def directives(script):
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script.read_text(), re.M))


@pytest.mark.parametrize("name", ["single", "nodes", "array"])
def test_a_job_survives_its_time_limit_and_preemption(slurm, launch, rfm_run, name):
    script = LAUNCH / f"slurm/{name}.sbatch"
    said = directives(script)
    # Not B: Slurm is to signal srun's tasks itself, and the batch shell has nothing to forward.
    assert said["signal"] == "TERM@120"
    assert "requeue" in said and said["open-mode"] == "append"
    # A job array's tasks are submitted without arguments.
    fake = slurm(status=143)
    array = name == "array"
    variables = JOB | (TASK if array else {})
    assert launch(script, *([] if array else rfm_run), **variables).returncode == 143
    number = "40_5" if array else "42"  # one task of an array has the array's own number
    assert fake.calls()[-1] == ["scontrol", "requeue", number]
    assert f"--jobs={number}" in fake.calls("squeue")[-1]


@pytest.mark.parametrize("status", [75, 134, 143])
def test_requeue_when_interrupted(slurm, launch, rfm_run, status):
    fake = slurm(status)
    launch("launch/slurm/requeue.sh", "srun", *rfm_run, **JOB)
    assert fake.calls("scontrol") == [REQUEUED]


@pytest.mark.parametrize("status", [0, 1, 2, 130, 253])
def test_no_requeue_of_what_would_come_again(slurm, launch, rfm_run, status):
    fake = slurm(status)
    assert launch("launch/slurm/requeue.sh", "srun", *rfm_run, **JOB).returncode == status
    assert fake.calls("scontrol") == []


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PENDING"])
def test_no_requeue_of_what_scancel_or_slurm_is_ending(slurm, launch, rfm_run, state):
    fake = slurm(143, state)
    assert launch("launch/slurm/requeue.sh", "srun", *rfm_run, **JOB).returncode == 143
    assert fake.calls("scontrol") == []


def test_no_requeue_forever(slurm, launch, rfm_run):
    fake = slurm(75)
    launch("launch/slurm/requeue.sh", "srun", *rfm_run, **JOB, SLURM_RESTART_COUNT="50")
    assert fake.calls("scontrol") == []


def test_a_signalled_batch_script_lives_on_to_requeue(
    slurm, fake, tmp_path, start, wait_for, rfm_run
):
    slurm()
    fake("rfm", f"touch {tmp_path}/up; sleep 0.5; exit 143")
    script = start("launch/slurm/requeue.sh", "srun", *rfm_run, **JOB)
    wait_for(tmp_path / "up")
    script.send_signal(signal.SIGTERM)
    assert script.wait(20) == 143
    assert fake.calls("scontrol") == [REQUEUED]


def test_one_node_is_one_process(slurm, launch, rfm_run):
    fake = slurm()
    said = directives(LAUNCH / "slurm/single.sbatch")
    assert said["nodes"] == said["ntasks"] == "1"
    launch("launch/slurm/single.sbatch", *rfm_run, **JOB)
    assert fake.calls() == [["srun", "--cpus-per-task=4", *rfm_run], rfm_run]


def test_every_task_of_a_node_sees_all_gpus(slurm, launch, rfm_run):
    # JAX's Slurm detection gives the task with SLURM_LOCALID i the i-th GPU that it sees.
    from jax._src.clusters.slurm_cluster import SlurmCluster

    with mock.patch.dict(os.environ, SLURM_LOCALID="3"):
        assert SlurmCluster.get_local_process_id() == 3
    fake = slurm()
    script = LAUNCH / "slurm/nodes.sbatch"
    said = directives(script)
    assert said["ntasks-per-node"] == said["gpus-per-node"]
    launch(script, *rfm_run, **JOB)
    flags = fake.calls("srun")[0]
    # Either would hide GPUs, --gpu-bind=none unset CUDA_VISIBLE_DEVICES: seen with Slurm 22.05.
    assert not re.search(
        r"--gpus-per-task|--gpu-bind", " ".join([*flags, *map("--{}".format, said)])
    )
    assert "--kill-on-bad-exit=0" in flags and "--wait=600" in flags
    assert flags[-len(rfm_run) :] == rfm_run


def test_array_has_every_method_and_seed_once(slurm, launch, rfm_takes):
    script = LAUNCH / "slurm/array.sbatch"
    last = int(re.match(r"0-(\d+)", directives(script)["array"])[1])
    fake = slurm()
    for task in range(last + 1):
        launch(script, **JOB | TASK | {"SLURM_ARRAY_TASK_ID": str(task)})
    runs = fake.calls("rfm")
    assert len({call[call.index("--workdir") + 1] for call in runs}) == last + 1
    chosen = [(rfm_takes(call).config, *rfm_takes(call).overrides) for call in runs]
    configs, seeds = ({part[i] for part in chosen} for i in (0, 1))
    assert len(set(chosen)) == len(configs) * len(seeds) == last + 1
    known = {name for name, _ in methods.listed()}
    assert {config.partition(":")[2] for config in configs} <= known
