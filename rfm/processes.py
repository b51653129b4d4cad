"""Several processes that run the same program: what one of them must do for all.

Under ``jax.distributed`` every process runs every line, with devices of its own, and whatever
is computed on a mesh is computed by all together. So all must take the same turns. What a
process knows alone (the clock, a signal, a file) reaches the others through here: the first
process reads, writes and decides, and tells the others what came of it. They need no common
file system. With a single process nothing is exchanged, and a function is just called.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rfm.errors import UserError

_PIECE = 1 << 24  # bytes that are sent at a time
_LEAST = 1 << 10  # few sizes, few compilations


def count() -> int:
    """How many there are. Asking starts no back end, which must not start too early."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def number() -> int:
    """Which one this is, from 0."""
    return jax.process_index() if count() > 1 else 0


def is_first() -> bool:
    """Is this the process that reads and writes for all?"""
    return number() == 0


def by_first(function: Callable[[], Any]) -> Any:
    """What `function` returns on the first process, on all of them; JSON, as far as it is told.

    Raises:
      UserError, OSError: what it raised there, on every process.
    """
    if count() == 1:
        return function()
    if not is_first():
        told: dict[str, Any] = json.loads(_from_first(b""))
        kind, value = told["error"], told["value"]
        if kind == "user":
            raise UserError(value, told=True)
        if kind == "system":
            error = OSError(*value)
            error.told = True  # type: ignore[attr-defined]
            raise error
        if kind:
            raise RuntimeError(f"on process 0: {value}")
        return value
    try:
        value = function()
        content = json.dumps({"error": "", "value": value})
    except Exception as error:
        kind, value = _described(error)
        _from_first(json.dumps({"error": kind, "value": value}).encode())
        if kind != "defect":
            error.told = True  # type: ignore[attr-defined]
        raise
    _from_first(content.encode())
    return json.loads(content)["value"]  # the same on all: JSON has no tuples


def _described(error: Exception) -> tuple[str, Any]:
    if isinstance(error, UserError):
        return "user", str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return "system", (error.errno, error.strerror, str(error.filename or ""))
    return "defect", repr(error)


def bytes_by_first(function: Callable[[], bytes | None]) -> bytes | None:
    """As `by_first`, of a function that returns bytes or None."""
    found: list[bytes] = []

    def size() -> int | None:
        content = function()
        found.extend([] if content is None else [content])
        return None if content is None else len(content)

    length = by_first(size)
    if length is None or count() == 1:
        return found[0] if found else None
    return _in_pieces(found[0] if found else bytes(length))


def from_first(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The first process's arrays, bit by bit; the others give arrays of the same shapes."""
    if count() == 1:
        return arrays
    sent = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    got, start, made = _in_pieces(sent), 0, []
    for array in arrays:
        part = got[start : start + array.nbytes]
        made.append(np.frombuffer(part, array.dtype).reshape(array.shape).copy())
        start += array.nbytes
    return made


def largest(number: int) -> int:
    """The largest of the processes' numbers (32 bits)."""
    if count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def _from_first(content: bytes) -> bytes:
    """Bytes of any length that the others do not know."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    return _in_pieces(content.ljust(length, b"\0"))


def _in_pieces(content: bytes) -> bytes:
    """The first process's bytes; the others give as many."""
    done: list[bytes] = []
    for start in range(0, len(content), _PIECE):
        part = np.frombuffer(content[start : start + _PIECE], np.uint8)
        size = max(_LEAST, 1 << (len(part) - 1).bit_length())
        sent = np.zeros(size, np.uint8)
        sent[: len(part)] = part
        done.append(multihost_utils.broadcast_one_to_all(sent)[: len(part)].tobytes())
    return b"".join(done)
