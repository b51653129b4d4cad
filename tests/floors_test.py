"""The house: who may import whom, and that coming in changes nothing."""

import ast
import pathlib
import subprocess
import sys

import pytest

import rfm

ROOT = pathlib.Path(rfm.__file__).parent

FLOORS = {
    0: [
        "archives",
        "files",
        "errors",
        "types",
        "losses",
        "threat",
        "perturb",
        "loops",
        "batching",
        "devices",
        "processes",
        "progress",
        "version",
    ],
    1: ["attacks", "models", "data"],
    2: ["flatness"],
    3: ["training", "evaluation", "workdir"],
    4: ["reporting"],
    5: ["cli", "configs", "__main__"],
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}
FLOOR_OF[""] = 2  # `rfm` itself re-exports the pure functions of floors 0 to 2

HOUSEHOLD = {"flax", "ml_collections", "tensorflow_datasets", "orbax"}
"""What knows of models, configs, data sets and files."""


def modules() -> list[pathlib.Path]:
    return sorted(ROOT.rglob("*.py"))


def room(path: pathlib.Path) -> str:
    """``rfm/flatness/worst.py`` -> ``flatness``; ``rfm/__init__.py`` -> the empty string."""
    first = path.relative_to(ROOT).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(source: str) -> set[str]:
    """Everything a module imports, also inside functions, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(source: str) -> set[str]:
    parts = [name.split(".") for name in imports(source) if name.split(".")[0] == "rfm"]
    return {p[1] if len(p) > 1 and p[1] in FLOOR_OF else "" for p in parts}


def test_reads_all_forms_of_import():
    source = (
        "import rfm.cli\nfrom rfm import losses\ndef f():\n  from rfm.models.layers import Conv\n"
    )
    assert rooms_imported(source) == {"cli", "losses", "models"}
    assert rooms_imported("import rfm\nimport numpy\nfrom rfm import __version__") == {""}


def test_every_module_has_a_floor():
    assert len(modules()) > 30
    assert {room(path) for path in modules()} <= set(FLOOR_OF)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_from_its_own_floor_or_below(path):
    floor = FLOOR_OF[room(path)]
    above = {name for name in rooms_imported(path.read_text()) if FLOOR_OF[name] > floor}
    assert not above, f"{path.relative_to(ROOT)} is on floor {floor} and imports {above}"


def test_pure_floors_know_no_models_configs_data_sets_or_files():
    for path in modules():
        if FLOOR_OF[room(path)] <= 2 and room(path) not in ("models", "data"):
            libraries = {name.split(".")[0] for name in imports(path.read_text())}
            assert not libraries & HOUSEHOLD, path


def test_importing_rfm_loads_nothing_of_the_household():
    code = f"import sys, rfm; print(sorted({HOUSEHOLD!r} & set(sys.modules)))"
    assert run(code) == "[]"


@pytest.mark.parametrize(
    "names",
    ["rfm", "rfm.models, rfm.data, rfm.training.build, rfm.evaluation.evaluate, rfm.reporting"],
)
def test_importing_changes_no_setting_of_jax(names):
    code = f"""
import os, jax
before, environment = dict(jax.config.values), dict(os.environ)
import {names}
after = jax.config.values
print({{name: (value, after[name]) for name, value in before.items() if after[name] != value}})
print(dict(os.environ) == environment)
"""
    assert run(code).split("\n") == ["{}", "True"]


def test_importing_starts_no_backend():
    """With a platform that does not exist, whatever touches a device fails."""
    rooms = "rfm, rfm.models, rfm.data, rfm.training.build, rfm.evaluation.evaluate, rfm.reporting"
    code = f"""
import jax
jax.config.update("jax_platforms", "nowhere")
import {rooms}
try:
    jax.devices()
except RuntimeError:
    print("asleep")
"""
    assert run(code) == "asleep"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
