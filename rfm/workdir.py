"""The folder of a run: what is where, and whose it is.

::

    config.json         the config that the run belongs to
    metrics.jsonl       training and validation metrics, see `rfm.training.metrics`
    tensorboard/        the same for TensorBoard
    checkpoints/STEP/   see `rfm.training.checkpoint`
    records/STEP/*.json results, see `rfm.evaluation.records`
    records-set-aside/  those of weights that are no more, see `set_aside`
    report.html         see `rfm.reporting`

A workdir belongs to one training config. How it is evaluated may change at any time,
since each record carries its own protocol.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from rfm import processes
from rfm.errors import UserError
from rfm.files import write_atomically

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_MEASURING = frozenset({"evaluation", "flatness", "snapshots", "curvature", "landscape"})
_NEUTRAL = (("data", "stream"), ("model", "remat"))  # how it is computed, not what


def claim(workdir: Path, config: Mapping[str, Any]) -> None:
    """Makes `workdir` that of `config`, or checks that it already is.

    Raises:
      UserError: it belongs to a config that trains another model; nothing is changed.
    """
    check(workdir, config)

    def write() -> None:
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        if _read_config(workdir) != json.loads(text):  # else it may be one that is read-only
            write_atomically(workdir / "config.json", text)

    processes.by_first(write)


def check(workdir: Path, config: Mapping[str, Any]) -> None:
    """Checks that `workdir` can be, or is, that of `config`.

    Raises:
      UserError: it cannot.
    """
    processes.by_first(lambda: _check(workdir, config))


def _check(workdir: Path, config: Mapping[str, Any]) -> None:
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"workdir {workdir} is a file; give a folder")
    stored = _read_config(workdir)
    if stored is not None:
        field = _first_difference(_training_part(stored), _training_part(config))
        if field is not None:
            name, old, new = field
            raise UserError(
                f"workdir {workdir} belongs to another config: {name} is {old} there and {new} "
                "here; give another --workdir"
            )
    elif workdir.exists() and (workdir / "checkpoints").exists():
        raise UserError(f"workdir {workdir} has checkpoints but no config.json; give another one")


@contextlib.contextmanager
def locked(workdir: Path, *, doing: str = "training") -> Iterator[None]:
    """Keeps other processes from `doing` the same in `workdir` at the same time.

    The lock goes with the process, also when it is killed; file systems without locks
    have none. Of the processes of one program the first has it for all.

    Raises:
      UserError: another process holds it.
    """
    with contextlib.ExitStack() as opened:

        def take() -> None:
            _lock(opened.enter_context((workdir / ".lock").open("a")), workdir, doing)

        processes.by_first(take)
        yield


def _lock(file: IO[str], workdir: Path, doing: str) -> None:
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is {doing} in {workdir}; wait for it, stop it, or give"
                " another --workdir"
            ) from None
        except OSError:
            pass


def set_aside(workdir: Path, step: int) -> str | None:
    """Moves records of steps after `step` away, from where training goes on.

    It comes to the same weights on the same machine only; what was measured of others, as in an
    archive of records without checkpoints, is not to be taken for theirs.

    Returns:
      Where they are now; None if there were none.
    """
    place: str | None = processes.by_first(lambda: _set_aside(workdir, step))
    return place


def _set_aside(workdir: Path, step: int) -> str | None:
    later = [
        folder
        for folder in sorted(workdir.glob("records/*"))
        if folder.is_dir() and folder.name.isdigit() and int(folder.name) > step
    ]
    if not later:
        return None
    names = (f"records-set-aside{number}" for number in ("", *(f"-{n}" for n in range(2, 10**6))))
    place = next(path for name in names if not (path := workdir / name).exists())
    place.mkdir()
    for folder in later:
        folder.rename(place / folder.name)
    return str(place)


def read_config(workdir: Path) -> dict[str, Any] | None:
    """The config that `workdir` belongs to, or None if it has none.

    Raises:
      UserError: its file is damaged.
    """
    config: dict[str, Any] | None = processes.by_first(lambda: _read_config(workdir))
    return config


def _read_config(workdir: Path) -> dict[str, Any] | None:
    path = workdir / "config.json"
    if not path.exists():
        return None
    try:
        config = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it or give another workdir"
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a config; restore it or give another workdir")
    return config


def _training_part(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in config.items() if k not in _MEASURING}
    # As JSON sees it: tuples are lists there.
    loaded: dict[str, Any] = json.loads(json.dumps(kept))
    for section, field in _NEUTRAL:
        loaded.get(section, {}).pop(field, None)
    return loaded


def _first_difference(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "config"
) -> tuple[str, Any, Any] | None:
    for key in sorted(old.keys() | new.keys()):
        if key not in old and not new[key]:  # of a version of rfm without this field: off
            continue
        name, a, b = f"{prefix}.{key}", old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if found := _first_difference(a, b, name):
                return found
        elif a != b:
            return name, a, b
    return None
