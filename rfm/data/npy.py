"""Data sets that are folders of ``.npy`` files, mapped into memory: as large as the disk.

A folder has ``x_train.npy`` and ``x_test.npy``, uint8 (n, h, w, c), ``y_train.npy`` and
``y_test.npy``, integers, and perhaps ``classes.json``, a list of names. NumPy's format has
rows of one size, so that any of them is read without the others. ``rfm data convert`` writes
such a folder from any other source.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from rfm.archives import reason
from rfm.data.dataset import Dataset, from_arrays
from rfm.errors import UserError

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_CLASSES = "classes.json"


def is_folder(path: str) -> bool:
    """Is `path` one?"""
    return (Path(path).expanduser() / "x_train.npy").is_file()


def read(path: str) -> Dataset:
    """The data set in a folder; images stay on the disk until they are asked for.

    Raises:
      UserError: a file is missing, damaged or something else, or they do not fit together.
    """
    folder = Path(path).expanduser().absolute()
    arrays: dict[str, Any] = {name: _mapped(folder / f"{name}.npy") for name in _ARRAYS}
    class_names = _class_names(folder / _CLASSES)
    return from_arrays(folder.name, class_names=class_names, **arrays)


def write(dataset: Dataset, path: str) -> None:
    """Writes a data set as a folder; ``x_train.npy`` last, so that a part of one is none.

    Raises:
      UserError: there is something else already.
      OSError: it cannot be written.
    """
    folder = Path(path).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{path}: there is something already; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CLASSES).write_text(json.dumps(list(dataset.class_names)) + "\n")
    np.save(folder / "y_train.npy", dataset.train_labels)
    np.save(folder / "y_test.npy", dataset.test_labels)
    np.save(folder / "x_test.npy", dataset.test_images)
    partial = folder / "x_train.partial"
    with partial.open("wb") as file:
        np.save(file, dataset.train_images)
    os.replace(partial, folder / "x_train.npy")


def _mapped(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; rfm data convert writes such folders")
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises a dozen kinds
        raise UserError(f"{path}: damaged, or not an .npy file ({reason(error)})") from error
    if found.ndim > 1 and not found.flags.c_contiguous:
        raise UserError(f"{path}: in Fortran's order, in which no image is one piece of the file")
    return found


def _class_names(path: Path) -> list[str] | None:
    if not path.exists():
        return None
    try:
        names = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: must be a list of names")
    return names
