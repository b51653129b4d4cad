"""What the files say: scripts are sound, commands parse, links lead somewhere."""

import os
import re
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_sound(launch, shellcheck, script):
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert launch("bash", "-n", script).returncode == 0
    assert shellcheck(script) == ""


def said_commands():
    """Every rfm command in the README and in the comments at the top of files."""
    for path in sorted(path for path in LAUNCH.rglob("*") if path.is_file()):
        text = path.read_text().replace("\\\n", " ")
        if path.suffix == ".md":
            lines = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)).splitlines()
        else:
            lines = [line for line in text.splitlines() if line.startswith("#   ")]
        for line in lines:
            if command := re.search(r"(?<![\w/.-])rfm (?:run|sweep|data) --?\w.*", line):
                yield pytest.param(command[0], id=f"{path.name}: {command[0][:40]}")


@pytest.mark.parametrize("command", list(said_commands()))
def test_rfm_takes_what_is_said(rfm_takes, command):
    rfm_takes(command)


def test_readme_names_every_file_and_links_lead_somewhere():
    text = (LAUNCH / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)#:]+)\)", text))
    for target in linked:
        assert (LAUNCH / target).exists(), target
    for path in LAUNCH.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert path.relative_to(LAUNCH).as_posix() in text.replace("launch/", ""), path
