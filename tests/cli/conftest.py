"""The command line as users have it: the installed command, in processes of its own."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

RFM = Path(sys.executable).parent / "rfm"

# A run of seconds: width 4, 160 examples, 3 epochs of 5 steps, a snapshot after each.
TINY = (
    "--config.model.width=4",
    "--config.data.train_examples=160",
    "--config.adversary.steps=2",
    "--config.train.epochs=3",
    "--config.train.batch_size=32",
    "--config.train.snapshot_every=1",
    "--config.train.steps_per_dispatch=2",
    "--config.validation.examples=40",
    "--config.validation.steps=2",
    "--config.validation.restarts=1",
)
# Measures of seconds, on 64 examples.
MEASURES = (
    "--config.evaluation.examples=64",
    "--config.evaluation.batch_size=64",
    "--config.evaluation.clean_train_examples=128",
    "--config.evaluation.steps=2",
    "--config.evaluation.restarts=2",
    "--config.flatness.average.samples=2",
    "--config.flatness.average.steps=2",
    "--config.flatness.worst.steps=2",
    "--config.flatness.worst.restarts=2",
    "--config.snapshots.examples=64",
    "--config.snapshots.steps=2",
    "--config.snapshots.average_samples=2",
    "--config.snapshots.worst_restarts=1",
)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command said, and its exit status (negative: killed by a signal)."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of a refusal: status 2, one line of ``rfm:``, no traceback."""
        assert self.status == 2, self
        assert "Traceback" not in self.out + self.err, self
        assert self.err.startswith("rfm: "), self
        assert self.err.count("\n") == 1, self
        assert self.err.endswith("\n"), self
        return self.err.strip()


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """Of a user with nothing at home, not even a compilation cache at first."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    home = tmp_path_factory.mktemp("home")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RFM", "TFDS", "JAX", "XLA"))}
    return {
        **kept,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(shared / "cache"),
        "TFDS_DATA_DIR": str(home / "tensorflow_datasets"),
        "JAX_PLATFORMS": "cpu",
        # Compiles in a third of the time; what is compiled runs for seconds only.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "COLUMNS": "80",
    }


@pytest.fixture(scope="session")
def start(environment) -> Callable[..., subprocess.Popen[str]]:
    """`start(*arguments)`: the installed command, or another program, as a process."""

    def start(
        *arguments: str,
        program: str | Path = RFM,
        cwd: Path | None = None,
        start_new_session: bool = False,
        **variables: str,
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [program, *map(str, arguments)],
            cwd=cwd or environment["HOME"],
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )

    return start


@pytest.fixture(scope="session")
def rfm(start) -> Callable[..., Result]:
    """`rfm(*arguments)`: the installed command, to its end."""

    def rfm(*arguments: str, **options) -> Result:
        process = start(*arguments, **options)
        out, err = process.communicate(timeout=900)
        return Result(process.returncode, out, err)

    return rfm


_SERVER = """
import gc, json, os, sys, traceback, warnings
warnings.simplefilter("ignore")  # JAX warns of forks; it has started nothing yet
import rfm.cli, rfm.cli.verbs, sklearn.datasets, tensorflow_datasets
gc.freeze()
for line in sys.stdin:
    call = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(call["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(call["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.chdir(call["cwd"])
        status = 1
        try:
            status = rfm.cli.main(call["arguments"])
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # taking down all those modules would take longer than the call
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="session")
def quick_rfm(environment, tmp_path_factory) -> Iterator[Callable[..., Result]]:
    """The same as `rfm`, for many calls: processes that fork after the imports."""
    streams = tmp_path_factory.mktemp("streams")
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        env={**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def quick_rfm(*arguments: str, cwd: Path | None = None) -> Result:
            files = {name: str(streams / name) for name in ("out", "err")}
            call = {"arguments": [*map(str, arguments)], "cwd": str(cwd or environment["HOME"])}
            server.stdin.write(json.dumps({**call, **files}) + "\n")
            server.stdin.flush()
            status = int(server.stdout.readline())
            return Result(status, *(Path(file).read_text() for file in files.values()))

        yield quick_rfm
        server.stdin.close()


@pytest.fixture(scope="session")
def first_training(rfm, tmp_path_factory) -> tuple[Path, str]:
    workdir = tmp_path_factory.mktemp("trained") / "run"
    command = ("train", "--config", "digits", "--workdir", workdir, *TINY, *MEASURES)
    result = rfm(*command, TERM="dumb")
    assert (result.status, result.err) == (0, ""), result
    return workdir, result.out


@pytest.fixture(scope="session")
def trained(first_training) -> Path:
    """The workdir of a finished `rfm train`; copy it before changing anything."""
    return first_training[0]


@pytest.fixture(scope="session")
def log_of_training(first_training) -> str:
    """What that training said."""
    return first_training[1]


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The flags that made `trained`."""
    return ("--config", "digits", *TINY, *MEASURES)


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, str]]:
    """`contents(folder)`: all files below it, or the file itself, with what is in them."""

    def contents(folder: Path) -> dict[str, str]:
        files = [folder] if folder.is_file() else sorted(folder.rglob("*"))
        return {
            str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
            if file.is_file()
        }

    return contents


@pytest.fixture(scope="session")
def assert_same_training() -> Callable[[Path, Path], None]:
    """`assert_same_training(one, other)`: two workdirs have the same metrics and final state."""

    def assert_same_training(one: Path, other: Path) -> None:
        assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
        found, expected = final_state(one), final_state(other)
        assert len(found) == len(expected) > 50
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)

    return assert_same_training


def final_state(workdir: Path) -> list[np.ndarray]:
    """All arrays of the newest checkpoint, read as they are, without a model."""
    step = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
    handler = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    found = handler.restore(workdir / "checkpoints" / str(step) / "state")
    assert int(found["step"]) == step
    return [np.asarray(leaf) for leaf in jax.tree.leaves(found)]
