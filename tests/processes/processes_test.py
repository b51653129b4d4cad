"""Real processes on this machine, joined by JAX over the loopback interface."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("worker.py")
SECONDS = 280


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def found_by(task: str, folder: Path, *, processes: int, devices: int) -> dict[str, np.ndarray]:
    """What `processes` workers with `devices` each find together."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX", "XLA"))}
    environment = {
        **kept,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    shape = (str(processes), str(free_port()))
    folder.mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, WORKER, task, folder, str(number), *shape],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes)
    ]
    said = [process.communicate(timeout=SECONDS)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes, "\n".join(said)
    with np.load(folder / "found.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("layouts") / "one"
    return found_by("layouts", folder, processes=1, devices=1)


@pytest.mark.parametrize(
    ("processes", "devices"),
    [(1, 8), (2, 2), pytest.param(4, 2, marks=pytest.mark.slow)],
)
def test_results_do_not_depend_on_processes_and_devices(processes, devices, one_device, tmp_path):
    found = found_by("layouts", tmp_path / "found", processes=processes, devices=devices)
    assert found.keys() == one_device.keys()
    for name, value in found.items():
        expected = one_device[name]
        if "broken_by" in name:
            np.testing.assert_array_equal(value, expected, err_msg=name)
            assert len(set(expected)) > 2, "several of the attacks break something"
            continue
        rtol = 1e-9 if "float64" in name and "metrics" not in name else 1e-4
        scale = np.nanmax(np.abs(expected))
        np.testing.assert_allclose(
            value, expected, rtol=rtol, atol=rtol * scale + 1e-12, err_msg=name
        )


@pytest.mark.parametrize("processes", [1, 2])
def test_what_one_process_knows_reaches_the_others(processes, tmp_path):
    found_by("exchange", tmp_path / "found", processes=processes, devices=8 // processes // 2)
