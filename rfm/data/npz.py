"""A data set of your own, in one .npz file.

Four arrays under the names that Keras made common: ``x_train``, ``y_train``,
``x_test``, ``y_test`` (`rfm.data.from_arrays` says what they must look like), and, if
you like, ``class_names``, an array of strings. Anything else in the file is not read.
Making one takes a line::

    np.savez_compressed("mine.npz", x_train=..., y_train=..., x_test=..., y_test=...)

A data file may come from anywhere, so it is never unpickled: an array of Python
objects is refused. Bytes damaged under way are noticed, for the archive carries a
checksum of every array and reading an array to its end compares it.
"""

import os
from collections.abc import Iterable

import numpy as np

from rfm.data._reason import reason
from rfm.data.dataset import Dataset, from_arrays
from rfm.errors import UserError

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def read(path: str) -> Dataset:
    """Reads a data set from an .npz file; its name is the path.

    Args:
      path: the file; ``~`` is the home directory.

    Raises:
      UserError: the file is missing, damaged, holds pickled objects, or its arrays
        are not a data set.
    """
    expanded = os.path.expanduser(path)
    if not os.path.isfile(expanded):
        raise UserError(f"{path}: there is no such file")
    # A damaged file can fail anywhere in zipfile, zlib, ast and NumPy, which raise about
    # a dozen kinds of exception; at this door each of them means the same.
    try:
        archive = np.load(expanded, allow_pickle=False)
    except Exception as error:
        raise UserError(
            f"{path}: damaged, or not an .npz archive ({reason(error)}); write one "
            f"with np.savez_compressed and the keys {_listed(_ARRAYS)}"
        ) from error
    if isinstance(archive, np.ndarray):
        raise UserError(
            f"{path}: holds one array without a name; write an .npz archive with the "
            f"keys {_listed(_ARRAYS)}"
        )
    with archive:
        missing = [key for key in _ARRAYS if key not in archive]
        if missing:
            raise UserError(
                f"{path}: lacks {_listed(missing)}; the archive must have the keys "
                f"{_listed(_ARRAYS)}"
            )
        x_train, y_train, x_test, y_test = (_array(path, archive, key) for key in _ARRAYS)
        class_names = _class_names(path, archive) if "class_names" in archive else None
    return from_arrays(path, x_train, y_train, x_test, y_test, class_names)


def _array(path: str, archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        array = archive[key]
    except MemoryError as error:
        raise UserError(f"{path}: {key} does not fit into memory") from error
    except Exception as error:
        if "allow_pickle" in str(error):  # NumPy raises a plain ValueError for it
            raise UserError(
                f"{path}: {key} holds pickled Python objects, which are not loaded "
                "from data files; save an array of numbers of one shape"
            ) from error
        raise UserError(
            f"{path}: {key} is damaged ({reason(error)}); get the file again"
        ) from error
    if not isinstance(array, np.ndarray):  # a member that is no array comes as bytes
        raise UserError(f"{path}: {key} is damaged (not an array); get the file again")
    return array


def _class_names(path: str, archive: np.lib.npyio.NpzFile) -> list[str]:
    names = _array(path, archive, "class_names")
    if names.ndim != 1 or names.dtype.kind != "U":
        raise UserError(
            f"{path}: class_names is {names.dtype} of shape {names.shape}; it must be "
            "strings of shape (classes,)"
        )
    return [str(name) for name in names]


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(keys)
