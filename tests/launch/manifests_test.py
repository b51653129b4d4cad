"""Kubernetes' and SkyPilot's files: their schemas, and what their fields must agree on."""

import importlib.util
import re
import shutil
import sys
import types
from math import prod
from pathlib import Path
from unittest import mock

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
JOB_SETS = ["jobset", "gpu"]
SKYPILOT = yaml.safe_load((LAUNCH / "skypilot/rfm.yaml").read_text())


def manifest(name):
    return yaml.safe_load((LAUNCH / f"gke/{name}.yaml").read_text())


def job(name):
    (replicated,) = manifest(name)["spec"]["replicatedJobs"]
    return replicated, replicated["template"]["spec"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, "jobset_v1alpha2_job_set.JobsetV1alpha2JobSet") for name in JOB_SETS],
        (
            "workdir",
            "io_k8s_api_core_v1_persistent_volume_claim.IoK8sApiCoreV1PersistentVolumeClaim",
        ),
    ],
)
def test_manifest_has_the_fields_and_types_of_its_kind(name, kind):
    module, model = kind.split(".")
    models = pytest.importorskip(
        f"kubeflow_trainer_api.models.{module}", reason="pip install kubeflow-trainer-api"
    )
    # The models check types and drop what they do not know, so that nothing may be missing after.
    written = manifest(name)
    assert getattr(models, model).from_dict(written).to_dict() == written


@pytest.mark.parametrize("name", JOB_SETS)
def test_job_set_restarts_all_but_what_would_fail_again(name):
    _, spec = job(name)
    policy = manifest(name)["spec"]["failurePolicy"]
    assert policy["restartStrategy"] == "BlockingRecreate"  # one process 0 at a time
    assert policy["maxRestarts"] > 0
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    (final,) = spec["podFailurePolicy"]["rules"]
    assert final["action"] == "FailJob"
    assert final["onExitCodes"]["operator"] == "In"
    assert final["onExitCodes"]["values"] == [1, 2]
    pod_spec = spec["template"]["spec"]
    assert final["onExitCodes"]["containerName"] == pod_spec["containers"][0]["name"]
    # Kubernetes asks for this with a podFailurePolicy; a pod alone must not come back.
    assert pod_spec["restartPolicy"] == "Never" and spec["backoffLimit"] == 0
    assert spec["completions"] == spec["parallelism"]


@pytest.mark.parametrize("name", JOB_SETS)
def test_job_set_writes_into_the_claimed_volume(rfm_takes, name):
    pod_spec = job(name)[1]["template"]["spec"]
    (container,) = pod_spec["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_spec["volumes"]}
    assert set(mounts.values()) == set(volumes)
    claim = volumes[mounts["/runs"]]["persistentVolumeClaim"]["claimName"]
    assert claim == manifest("workdir")["metadata"]["name"]
    # Pods on several nodes mount it.
    assert manifest("workdir")["spec"]["accessModes"] == ["ReadWriteMany"]
    args = ["rfm", *(arg.replace("$(POD)", "1") for arg in container["args"])]
    assert rfm_takes(args).workdir.startswith("/runs/")


def test_tpu_slice_has_as_many_pods_as_its_topology_needs():
    spec = job("jobset")[1]
    pod_spec = spec["template"]["spec"]
    topology = pod_spec["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    resources = pod_spec["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    chips = int(resources["limits"]["google.com/tpu"])
    assert spec["completions"] * chips == prod(map(int, topology.split("x")))


def test_gpu_pods_name_the_first_pod_and_their_number():
    written = manifest("gpu")
    replicated, spec = job("gpu")
    name = written["metadata"]["name"]
    (container,) = spec["template"]["spec"]["containers"]
    flags = dict(arg.removeprefix("--").split("=") for arg in container["args"][1:])
    host, port = flags["coordinator"].split(":")
    assert host == f"{name}-{replicated['name']}-0-0.{name}" and port.isdigit()
    assert int(flags["processes"]) == spec["completions"]
    (variable,) = container["env"]
    assert flags["process"] == f"$({variable['name']})"
    path = variable["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_dockerfile_copies_what_is_there(rfm_takes):
    text = (LAUNCH / "gke/Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M)
    assert copied
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
    extras = re.search(r"EXTRA is (.*):", text)[1]
    for extra in re.findall(r"\w+", extras.replace("or", "")):
        assert f'"{extra}":' in (ROOT / "setup.py").read_text()
    (prepared,) = re.findall(r"rfm data [^\\]*", text)
    rfm_takes(prepared.strip())


@pytest.fixture
def sky_schemas(monkeypatch):
    """SkyPilot's schemas without its 85 dependencies: those modules alone, the rest pretends."""
    found = importlib.util.find_spec("sky")
    if found is None:
        pytest.skip("needs SkyPilot's schemas: pip install --no-deps skypilot")
    package = types.ModuleType("sky")
    package.__path__ = list(found.submodule_search_locations)
    package.__version__, package.__commit__ = "0.0.0", ""
    for name in [name for name in sys.modules if name.split(".")[0] == "sky"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sky", package)
    for name in ("sky.skylet.autostop_lib", "sky.server", "sky.server.plugins"):
        monkeypatch.setitem(sys.modules, name, mock.MagicMock())
    from sky.utils import schemas, validator

    yield schemas, validator.get_schema_validator()
    for name in [name for name in sys.modules if name.startswith("sky.")]:
        del sys.modules[name]


def test_sky_task_has_the_fields_and_types_of_one(sky_schemas):
    schemas, validator = sky_schemas
    validator(schemas.get_task_schema()).validate(SKYPILOT)
    validator(schemas.get_resources_schema()).validate(SKYPILOT["resources"])


def test_sky_recovers_what_was_interrupted_and_nothing_else():
    assert SKYPILOT["resources"]["job_recovery"] == {"recover_on_exit_codes": [75, 143]}
    mount = SKYPILOT["file_mounts"]["/runs"]
    assert mount["mode"] == "MOUNT_CACHED"


def test_sky_nodes_name_the_first_node_and_their_number(fake, tmp_path, launch, rfm_takes):
    fake("rfm", "exit_next", statuses=[75])
    (tmp_path / "rfm/bin").mkdir(parents=True)
    (tmp_path / "rfm/bin/rfm").symlink_to(shutil.which("rfm"))
    node = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"}
    variables = SKYPILOT["envs"] | node | {"SKYPILOT_NODE_RANK": "1", "HOME": str(tmp_path)}
    done = launch("bash", "-c", SKYPILOT["run"], **variables)
    assert done.returncode == 75
    (call,) = fake.calls()
    flags = ["--coordinator", "10.0.0.1:8476", "--processes", "2", "--process", "1"]
    assert call == ["rfm", "run", "--config", "cifar10:at", "--workdir", "/runs/at", *flags]
    rfm_takes(call)


@pytest.mark.parametrize("part", ["setup", "run"])
def test_sky_commands_are_sound(tmp_path, shellcheck, part):
    script = tmp_path / "part.sh"
    script.write_text("#!/usr/bin/env bash\n" + SKYPILOT[part])
    assert shellcheck(script) == ""
