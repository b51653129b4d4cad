"""Results as records: a value beside everything it depends on.

A record is one JSON file, ``records/STEP/NAME.json`` in the workdir. Its `protocol` says
how it was obtained (attack, steps, restarts, epsilon, radius, examples by index, seed,
dtype, precision) and where (device, versions, git revision), so that tables are rebuilt
from files alone and nothing is measured twice.
"""

import dataclasses
import importlib.metadata
import json
import math
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import rfm
from rfm import processes
from rfm.files import write_atomically

SCHEMA = 1
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def path_of(workdir: Path, record: Mapping[str, Any]) -> Path:
    """Where a record is: by its step and name, snapshots apart."""
    suffix = "-snapshot" if record.get("snapshot") else ""
    return workdir / "records" / f"{record['step']:08d}" / f"{record['name']}{suffix}.json"


def find(workdir: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record on disk with the step, name and protocol of `record`, if there is one.

    Where it was made (device, versions) may differ.
    """
    try:
        found = json.loads(path_of(workdir, record).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        return None
    wanted, protocol = json.loads(json.dumps(record["protocol"])), found.get("protocol")
    if not isinstance(protocol, dict):
        return None
    return found if all(protocol.get(k) == v for k, v in wanted.items()) else None


def write(workdir: Path, record: Mapping[str, Any]) -> Path:
    """Writes a record; numbers that are not finite become null, as JSON wants it."""
    complete = {
        "schema": SCHEMA,
        **record,
        "protocol": {**record["protocol"], **environment()},
    }
    path = path_of(workdir, record)
    write_atomically(path, json.dumps(_finite(complete), allow_nan=False) + "\n")
    return path


def environment() -> dict[str, Any]:
    """Device, versions and git revision of this process."""
    device = jax.devices()[0]
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "device": {
            "platform": device.platform,
            "kind": processor() if device.platform == "cpu" else device.device_kind,
            "count": jax.device_count(),
            "processes": processes.count(),
        },
        "versions": {"rfm": rfm.__version__, "python": platform.python_version(), **versions},
        "git": git_revision(),
    }


def processor() -> str:
    """The name of the CPU, on which roundings depend; JAX calls all of them "cpu"."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine() or "cpu"


def git_revision() -> str | None:
    """The commit of the checkout that `rfm` runs from, "-dirty" if changed, else None."""
    folder = Path(rfm.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", "__init__.py")
        changed = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changed if tracked else None
    except (OSError, subprocess.CalledProcessError):
        return None


def describe(setting: Any) -> Any:
    """A setting as JSON: dataclasses by name and fields, functions by name.

    Fields that change how something is computed but not what are left out: they carry
    ``metadata={"protocol": False}``.
    """
    if dataclasses.is_dataclass(setting) and not isinstance(setting, type):
        fields = [f for f in dataclasses.fields(setting) if f.metadata.get("protocol", True)]
        values = {f.name: describe(getattr(setting, f.name)) for f in fields}
        return {"name": type(setting).__name__.lower(), **values}
    if callable(setting):
        return getattr(setting, "__name__", repr(setting))
    return setting


def describe_threat(threat: Any) -> dict[str, Any] | None:
    """A norm ball as JSON, or None for none."""
    if threat is None:
        return None
    return {"norm": type(threat).__name__.lower(), "epsilon": threat.epsilon}


def describe_attack(attack: Any) -> dict[str, Any] | None:
    """An attack as JSON, or None for none."""
    return attack and {**describe(attack), "threat": describe_threat(attack.threat)}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
