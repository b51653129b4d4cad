"""One machine: what is started again, what is not, and who hears of a SIGTERM."""

import re
import signal

import pytest

# The last argument is the process's number. What follows this is what the others do.
FAILS_IN_1 = "if [[ ${!#} == 1 ]]; then sleep 0.3; exit 9; fi; "


@pytest.mark.parametrize("status", [75, 134, 137])
def test_local_starts_again_what_was_taken_down(fake, launch, rfm_run, status):
    fake("rfm", "exit_next", statuses=[status, status, 0])
    assert launch("launch/local.sh", *rfm_run).returncode == 0
    assert fake.calls() == [rfm_run] * 3


@pytest.mark.parametrize("status", [0, 1, 2, 127, 130, 143])
def test_local_leaves_alone_what_is_done_wrong_or_stopped(fake, launch, rfm_run, status):
    fake("rfm", "exit_next", statuses=[status])
    assert launch("launch/local.sh", *rfm_run).returncode == status
    assert len(fake.calls()) == 1


def test_local_gives_up(fake, launch, rfm_run):
    fake("rfm", "exit_next", statuses=[75] * 9)
    assert launch("launch/local.sh", *rfm_run, RESTARTS="2").returncode == 75
    assert len(fake.calls()) == 3


def test_local_passes_one_sigterm_on_and_waits_for_the_checkpoint(
    fake, tmp_path, start, wait_for, rfm_run
):
    fake(
        "rfm",
        f"trap 'echo x >>{tmp_path}/terms; sleep 0.3; touch {tmp_path}/saved; exit 75' TERM\n"
        f"touch {tmp_path}/up; while :; do sleep 0.05; done",
    )
    script = start("launch/local.sh", *rfm_run)
    wait_for(tmp_path / "up")
    script.send_signal(signal.SIGTERM)
    assert script.wait(20) == 75  # not started again, although 75 says so
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "terms").read_text() == "x\n"
    assert len(fake.calls()) == 1


def test_processes_share_a_coordinator(fake, launch, rfm_takes, rfm_run):
    fake("rfm")
    assert launch("launch/processes.sh", 3, "--", *rfm_run).returncode == 0
    given = sorted(fake.calls(), key=lambda call: call[-1])
    address = given[0][given[0].index("--coordinator") + 1]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
    for i, call in enumerate(given):
        flags = ["--coordinator", address, "--processes", "3", "--process", str(i)]
        assert call == [*rfm_run, *flags]
    rfm_takes(given[0])


@pytest.mark.parametrize(("cores", "devices"), [(8, 2), (7, 2), (2, 1)])
def test_processes_share_the_cores(fake, monkeypatch, launch, rfm_run, cores, devices):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    fake("nproc", f"echo {cores}")
    fake("rfm", 'echo "<$XLA_FLAGS>"')
    count = f"--xla_force_host_platform_device_count={devices}"
    said = launch("launch/processes.sh", 3, "--", *rfm_run).stdout
    assert sorted(said.splitlines()) == [f"[{i}] <{count}>" for i in range(3)]
    said = launch("launch/processes.sh", 3, "--", *rfm_run, XLA_FLAGS="--xla_foo=1").stdout
    assert sorted(said.splitlines()) == [f"[{i}] <--xla_foo=1 {count}>" for i in range(3)]


def test_processes_have_the_devices_that_were_asked_for(fake, launch, rfm_run):
    fake("rfm", 'echo "<$XLA_FLAGS>"')
    asked = "--xla_force_host_platform_device_count=5"
    said = launch("launch/processes.sh", 2, "--", *rfm_run, XLA_FLAGS=asked).stdout
    assert sorted(said.splitlines()) == [f"[{i}] <{asked}>" for i in range(2)]


def test_processes_end_when_one_fails_and_say_its_status(fake, tmp_path, launch, rfm_run):
    fake(
        "rfm",
        FAILS_IN_1 + f"trap 'touch {tmp_path}/ended; exit 143' TERM; while :; do sleep 0.05; done",
    )
    assert launch("launch/processes.sh", 2, "--", *rfm_run).returncode == 9
    assert (tmp_path / "ended").exists()


def test_processes_that_do_not_end_are_killed(fake, launch, rfm_run):
    fake(
        "rfm",
        FAILS_IN_1 + "trap '' TERM; while :; do sleep 0.05; done",
    )
    assert launch("launch/processes.sh", 2, "--", *rfm_run, GRACE="1").returncode == 9


def test_processes_get_one_sigterm_each(fake, tmp_path, start, wait_for, rfm_run):
    # Process 1 is done first; process 0, still saving, must not get a second signal for that.
    fake(
        "rfm",
        "me=${!#}\n"
        f"trap 'echo $me >>{tmp_path}/terms; [[ $me == 1 ]] || sleep 0.5; exit 143' TERM\n"
        f"touch {tmp_path}/up$me; while :; do sleep 0.05; done",
    )
    script = start("launch/processes.sh", 2, "--", *rfm_run)
    wait_for(tmp_path / "up0")
    wait_for(tmp_path / "up1")
    script.send_signal(signal.SIGTERM)
    assert script.wait(20) == 143
    assert sorted((tmp_path / "terms").read_text().split()) == ["0", "1"]
