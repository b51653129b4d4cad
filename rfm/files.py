"""Files that are whole or not there, whatever happens while they are written."""

import io
import os
from pathlib import Path


def append(file: io.FileIO, data: bytes) -> None:
    """Writes all of `data`; an error names the file."""
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes `content`; whoever reads sees the old file or the new one, never a part.

    Raises:
      OSError: it cannot be written; the old file is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:  # Python does not say where there is no space
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
