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

from collections.abc import Iterable

import numpy as np

from rfm import archives
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
    keys = f"with np.savez_compressed and the keys {_listed(_ARRAYS)}"
    with archives.opened(path, f"write one {keys}") as archive:
        missing = [key for key in _ARRAYS if key not in archive]
        if missing:
            raise UserError(
                f"{path}: lacks {_listed(missing)}; the archive must have the keys "
                f"{_listed(_ARRAYS)}"
            )
        arrays = (archives.array(path, archive, key) for key in _ARRAYS)
        x_train, y_train, x_test, y_test = arrays
        class_names = _class_names(path, archive) if "class_names" in archive else None
    return from_arrays(path, x_train, y_train, x_test, y_test, class_names)


def _class_names(path: str, archive: np.lib.npyio.NpzFile) -> list[str]:
    names = archives.array(path, archive, "class_names")
    if names.ndim != 1 or names.dtype.kind != "U":
        raise UserError(
            f"{path}: class_names is {names.dtype} of shape {names.shape}; it must be "
            "strings of shape (classes,)"
        )
    return [str(name) for name in names]


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(keys)
