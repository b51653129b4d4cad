"""Reading ``.npz`` files that may come from anywhere.

Nothing is unpickled: an array of Python objects is refused. Bytes damaged under way are
noticed, for the archive carries a checksum of every array and reading an array to its end
compares it. Whatever is wrong, a `UserError` says it in one line.
"""

import contextlib
import os
import textwrap
from collections.abc import Iterator

import numpy as np

from rfm.errors import UserError


@contextlib.contextmanager
def opened(path: str, hint: str) -> Iterator[np.lib.npyio.NpzFile]:
    """The archive at `path`; ``~`` is the home directory.

    Args:
      path: of the file.
      hint: what the user can do if it is no archive, "write one with ...".

    Raises:
      UserError: the file is missing, damaged, or something else.
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
            f"{path}: damaged, or not an .npz archive ({reason(error)}); {hint}"
        ) from error
    if isinstance(archive, np.ndarray):
        raise UserError(f"{path}: holds one array without a name; {hint}")
    with archive:
        yield archive


def array(path: str, archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    """One array of an archive.

    Raises:
      UserError: it is damaged, holds Python objects, or is too large.
    """
    try:
        found = archive[key]
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
    if not isinstance(found, np.ndarray):  # a member that is no array comes as bytes
        raise UserError(f"{path}: {key} is damaged (not an array); get the file again")
    return found


def read(path: str, hint: str) -> dict[str, np.ndarray]:
    """All arrays of the archive at `path`, see `opened` and `array`."""
    with opened(path, hint) as archive:
        return {key: array(path, archive, key) for key in archive.files}


def reason(error: Exception) -> str:
    """The first line of another library's message, or the exception's name if it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return textwrap.shorten(lines[0], width=200, placeholder=" ...").rstrip(".")
