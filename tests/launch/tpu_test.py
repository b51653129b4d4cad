"""The TPU scripts, in a cloud that pretends."""

import shlex
import shutil
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
GCLOUD = ["gcloud", "compute", "tpus"]


@pytest.fixture
def repository(tmp_path, launch):
    """A repository with one commit: what git archive needs."""
    here = tmp_path / "repository"
    shutil.copytree(LAUNCH, here / "launch")
    settings = "-c user.name=a -c user.email=a@b -c commit.gpgsign=false"
    commands = f"git init -q && git add . && git {settings} commit -q -m ."
    assert launch("bash", "-c", commands, cwd=here).returncode == 0
    return here


def test_vm_is_created_once_and_sent_to(fake, repository, launch, rfm_run):
    fake("gcloud", '[[ $4 != describe ]] || exit "$(next_of statuses)"', statuses=[1, 0])
    for _ in range(2):
        assert launch("launch/tpu/vm.sh", *rfm_run, cwd=repository, ZONE="z").returncode == 0
    verbs = [call[4] for call in fake.calls()]
    assert verbs == ["describe", "create", "scp", "ssh", "ssh", "describe", "scp", "ssh", "ssh"]
    assert all(call[:4] == [*GCLOUD, "tpu-vm"] and call[-1] == "--zone=z" for call in fake.calls())
    sent = fake.calls()[4][-2].removeprefix("--command=")
    assert shlex.split(sent) == ["rfm/launch/tpu/host.sh", "run", *rfm_run]


@pytest.fixture
def pod(fake, repository, launch, rfm_run):
    """Runs pod.sh in a cloud: states of the slice, one a look, and statuses on its hosts."""

    def run(states, statuses, **environment):
        does = 'case "$*" in *describe*) next_of states ;; *"host.sh run"*) exit_next ;; esac'
        fake("gcloud", does, states=states, statuses=statuses)
        settings = {"BUCKET": "b", "ZONE": "z"} | environment
        done = launch("launch/tpu/pod.sh", *rfm_run, cwd=repository, **settings)
        sent = [call for call in fake.calls("gcloud") if "describe" not in call]
        return done.returncode, ["run" if "host.sh run" in call[-1] else call[4] for call in sent]

    return run


def test_pod_queues_installs_and_runs_on_all_hosts(fake, pod, rfm_run):
    states = ["", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    assert pod(states, [0]) == (0, ["create", "scp", "ssh", "run"])
    created, *sent = (call for call in fake.calls() if "describe" not in call)
    assert {"--spot", "--node-id=rfm", "--zone=z"} <= set(created)
    assert all("--worker=all" in call for call in sent)
    assert sent[1][-1].endswith("host.sh setup b")
    assert shlex.split(sent[2][-1].removeprefix("--command="))[2:] == rfm_run


def test_pod_goes_on_in_a_new_slice_after_preemption(pod):
    states = ["ACTIVE", "SUSPENDED", "SUSPENDED", "", "ACTIVE"]  # gcloud says 1 for a lost slice
    status, verbs = pod(states, [1, 0])
    assert status == 0
    assert verbs == ["scp", "ssh", "run", "delete", "create", "scp", "ssh", "run"]


def test_pod_starts_again_in_the_same_slice(pod):
    status, verbs = pod(["ACTIVE", "ACTIVE"], [75, 0])
    assert (status, verbs.count("run"), verbs.count("create")) == (0, 2, 0)


@pytest.mark.parametrize("status", [1, 2])
def test_pod_stops_when_rfm_would_fail_again(pod, status):
    found, verbs = pod(["ACTIVE", "ACTIVE"], [status])
    assert found == status and verbs.count("run") == 1


def test_pod_gives_up(pod):
    found, verbs = pod(["ACTIVE"] * 9, [75] * 9, RESTARTS="2")
    assert found == 75 and verbs.count("run") == 3


def test_host_installs_prepares_and_mounts(fake, tmp_path, launch, rfm_takes):
    home = tmp_path / "home"
    for program in ("curl", "gcsfuse", "python3"):
        fake(program)
    fake("sudo", "[[ $1 != tee ]] || cat >/dev/null")
    fake("lsb_release", "echo jammy")
    fake("mountpoint", "exit 1")
    for file in (".local/bin/uv", "venv/bin/rfm"):
        (home / file).parent.mkdir(parents=True)
        (home / file).symlink_to(shutil.which("curl"))  # a fake by another name
    assert launch(LAUNCH / "tpu/host.sh", "setup", "b", HOME=str(home)).returncode == 0
    called = [shlex.join(call) for call in fake.calls()]
    assert "uv pip install --quiet --python venv/bin/python './rfm[tpu,prepare]'" in called
    rfm_takes(fake.calls("rfm")[0])
    assert called[-1] == "gcsfuse --implicit-dirs b runs"


def test_host_runs_one_rfm_at_a_time_and_says_its_status(fake, tmp_path, launch, rfm_run):
    fake(
        "sudo",
        '[[ $1 == systemd-run ]] || exit 5; shift\nwhile [[ $1 == --* ]]; do shift; done; "$@"',
    )
    fake("rfm", "kill -ABRT $$")
    done = launch(LAUNCH / "tpu/host.sh", "run", *rfm_run, HOME=str(tmp_path))
    assert done.returncode == 134
    stopped, started = fake.calls("sudo")
    assert stopped[1:] == ["systemctl", "stop", "rfm.service"]
    assert {"--unit=rfm", "--wait"} <= set(started)
    assert fake.calls("rfm") == [rfm_run]
