"""The README's Python runs as it stands, and its commands exist."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)


def test_two_commands_of_one_line_each_in_a_virtual_environment():
    first, second = blocks("sh")[:2]
    for command in (first, second):
        assert len(command.strip().splitlines()) == 1
        assert "python3 -m venv" in command
    assert first.strip().endswith("rfm run")
    assert "pytest" in second


def test_python_runs(monkeypatch, capsys):
    (code,) = blocks("python")
    assert len(code.strip().splitlines()) <= 16
    namespace: dict = {}
    exec(compile(code, str(README), "exec"), namespace)
    assert namespace["adv"].success.any()
    assert (~namespace["aa"].robust | ~namespace["adv"].success).all()
    assert namespace["flat"].value == pytest.approx(
        namespace["flat"].perturbed - namespace["flat"].reference
    )


def test_links_point_to_files():
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target
