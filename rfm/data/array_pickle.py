"""Reading a pickle of plain NumPy arrays without running it as the program that it is.

Python's unpickler calls whatever a file names. Here a file may only name the parts of which
NumPy's pickles of arrays consist, and each name stands for a stub of ours that records what it
is given; no NumPy object is made by the unpickler. Arrays are built afterwards, from a data type
out of a short list and bytes that are counted.
"""

import math
import pickle
from typing import Any, BinaryIO

import numpy as np

_TYPES = frozenset({"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f4", "f8"})
_ORDERS = ("|", "<", ">", "=")
_CORES = ("numpy.core", "numpy._core")


def load(file: BinaryIO) -> Any:
    """What is in the file: numbers, texts, containers, and arrays of numbers.

    Raises:
      pickle.UnpicklingError: it asks for something else, or is no pickle. (Damaged bytes may
        lead Python's unpickler to raise other exceptions, too.)
    """
    return _built(_Unpickler(file, encoding="latin1").load())


class _Dtype:
    """``numpy.dtype(name, align, copy)``, and the state that follows."""

    __slots__ = ("name", "order")

    def __init__(self, name: str, align: Any = False, copy: Any = True) -> None:
        if name not in _TYPES:
            raise pickle.UnpicklingError(f"it has arrays of {name!r}, which are not admitted")
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, rest = state[1], state[2:5]
        if order not in _ORDERS or any(part is not None for part in rest):
            raise pickle.UnpicklingError("it has arrays of structures, which are not admitted")
        self.order = order

    def real(self) -> np.dtype:
        order: Any = self.order
        return np.dtype(self.name).newbyteorder(order)


class _Array:
    """An array to be."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self) -> None:
        self.shape: Any = (0,)
        self.dtype: Any = None
        self.fortran, self.data = False, b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def real(self) -> np.ndarray:
        shape = self.shape
        whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not whole or not isinstance(self.dtype, _Dtype):
            raise pickle.UnpicklingError("an array has no shape or no type")
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        dtype = self.dtype.real()
        size = math.prod(shape) * dtype.itemsize
        if not isinstance(data, bytes | bytearray) or len(data) != size:
            raise pickle.UnpicklingError("an array has not as many bytes as its shape says")
        found: np.ndarray = np.frombuffer(bytes(data), dtype)
        return found.reshape(shape, order="F" if self.fortran else "C")


class _Stub:
    """Stands for a name; has nothing that a file could change."""

    __slots__ = ()


class _ArrayType(_Stub):
    """``numpy.ndarray``, named as an argument and never called."""


class _Reconstruct(_Stub):
    """``_reconstruct(numpy.ndarray, (0,), b"b")``: an array whose state follows."""

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        if not isinstance(kind, _ArrayType):
            raise pickle.UnpicklingError("it makes an array that is no numpy.ndarray")
        return _Array()


class _FromBuffer(_Stub):
    """``_frombuffer(bytes, dtype, shape, order)``, as protocol 5 has it."""

    def __call__(self, data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        made = _Array()
        made.__setstate__((1, shape, dtype, order == "F", data))
        return made


class _Encode(_Stub):
    """``_codecs.encode(text, "latin1")``: bytes, as Python 2 pickled them."""

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("it encodes something that is no bytes")
        return text.encode("latin1")


class _MakeDtype(_Stub):
    """``numpy.dtype``."""

    def __call__(self, *arguments: Any) -> _Dtype:
        return _Dtype(*arguments)


_ADMITTED = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _MakeDtype,
    ("_codecs", "encode"): _Encode,
    **{(f"{core}.multiarray", "_reconstruct"): _Reconstruct for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _FromBuffer for core in _CORES},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not admitted")
        return _ADMITTED[module, name]()

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside of the file")


def _built(found: Any) -> Any:
    """The arrays of a dictionary; stubs elsewhere are refused."""
    if isinstance(found, dict):
        return {key: _built(value) for key, value in found.items()}
    if isinstance(found, _Array):
        return found.real()
    if isinstance(found, _Stub | _Dtype):
        raise pickle.UnpicklingError("it holds a part of an array alone")
    return found
