"""Whether this is one of several processes, as clusters say it."""

import importlib.util

import pytest

from rfm.cli import job

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.fixture
def cluster(monkeypatch):
    def cluster(*, packages=(), chips=(), **variables):
        for name in ("SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "KUBERNETES_SERVICE_HOST"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name: object() if name in packages else None if name == "libtpu" else find(name),
        )
        monkeypatch.setattr(job.glob, "glob", lambda pattern: list(chips))
        return job._in_cluster()

    return cluster


@pytest.mark.parametrize(
    ("is_one", "found"),
    [
        (False, {}),
        (True, {**SLURM, "SLURM_STEP_NUM_TASKS": "4"}),
        (False, {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}),
        (False, SLURM),  # a shell within an allocation
        (False, {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "4"}),  # a batch script
        (True, {"OMPI_COMM_WORLD_SIZE": "2"}),
        (False, {"OMPI_COMM_WORLD_SIZE": "1"}),
        (True, {"TPU_WORKER_HOSTNAMES": "a,b"}),
        (False, {"TPU_WORKER_HOSTNAMES": "a"}),
        (True, {"TPU_PROCESS_ADDRESSES": "a:1,b:1"}),
        (True, {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}),
        (False, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}),
        (False, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}),
        (
            True,
            {
                "KUBERNETES_SERVICE_HOST": "10.0.0.1",
                "JOB_COMPLETION_INDEX": "0",
                "packages": ("kubernetes",),
            },
        ),
        (True, {"chips": ("/dev/accel0",), "packages": ("libtpu",)}),
        (False, {"chips": ("/dev/vfio/0",)}),
    ],
)
def test_clusters_are_recognised(cluster, is_one, found):
    assert cluster(**found) == is_one
