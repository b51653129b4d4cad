"""Additional training images with pseudo-labels (Carmon et al., 2019).

Two kinds of files: an ``.npz`` with `images` (uint8, n h w c) and `labels` (integers), as
`dumps` makes them, and the published pickle of 500,000 images from 80 Million Tiny Images
(a dictionary with `data` and `extrapolated_targets`). A pickle is a program, so it is not
run by Python's unpickler: ours admits the parts of a plain NumPy array and refuses all else.
"""

import io
import pickle
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from rfm import archives
from rfm.archives import reason
from rfm.data.dataset import check_images, check_labels
from rfm.errors import UserError

_HINT = "write one by rfm data pseudo-label, or with the arrays images and labels"


class Labelled(NamedTuple):
    """Images and what a model says of them."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]


def read(path: str, *, image_shape: tuple[int, int, int], classes: int) -> Labelled:
    """Reads pseudo-labelled images, from a pickle if the name ends so.

    Args:
      path: the file.
      image_shape: (h, w, c) that the images must have.
      classes: labels must be below.

    Raises:
      UserError: the file is missing, damaged or something else, or does not fit.
    """
    if path.endswith((".pickle", ".pkl")):
        found = _unpickled(path)
        images, labels = found.get("data"), found.get("extrapolated_targets")
    else:
        arrays = archives.read(path, _HINT)
        images, labels = arrays.get("images"), arrays.get("labels")
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
        raise UserError(f"{path}: lacks images or labels; {_HINT}")
    images, labels = check_images(path, "images", images), check_labels(path, "labels", labels)
    if len(images) != len(labels):
        raise UserError(f"{path}: {len(images)} images but {len(labels)} labels")
    if images.shape[1:] != image_shape:
        raise UserError(
            f"{path}: images of {images.shape[1:]}, but those of the data set are {image_shape}"
        )
    if labels.max() >= classes:
        raise UserError(f"{path}: label {labels.max()}, but there are {classes} classes")
    return Labelled(images, labels)


def read_unlabelled(path: str, *, image_shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n ..."]:
    """Reads the images of an ``.npz``: the array `images`, or the only one with four axes.

    Raises:
      UserError: the file is missing, damaged or something else, or does not fit.
    """
    arrays = archives.read(path, "write one with the array images, uint8 (n, h, w, c)")
    candidates = [name for name, array in arrays.items() if array.ndim == 4]
    name = "images" if "images" in arrays else candidates[0] if len(candidates) == 1 else None
    if name is None:
        raise UserError(f"{path}: has no array called images; it has {', '.join(arrays) or 'none'}")
    images = check_images(path, name, arrays[name])
    if images.shape[1:] != image_shape:
        raise UserError(f"{path}: images of {images.shape[1:]}, but the model takes {image_shape}")
    return images


def dumps(images: np.ndarray, labels: np.ndarray) -> bytes:
    """The contents of an ``.npz`` that `read` takes."""
    content = io.BytesIO()
    np.savez_compressed(content, images=images, labels=labels.astype(np.int32))
    return content.getvalue()


def _frombuffer(buffer: Any, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    """NumPy's function of this name, which protocol 5 asks for."""
    array: np.ndarray = np.frombuffer(buffer, np.dtype(dtype)).reshape(shape, order=order)  # type: ignore[call-overload]
    return array


_ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.multiarray", "_reconstruct"): np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        for core in ("core", "_core")
    },
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    """Numbers, texts, containers, and plain NumPy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # bytes, as Python 2 pickled them
            return _latin1
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not admitted")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside of the file")


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it encodes something that is no bytes")
    return text.encode("latin1")


def _unpickled(path: str) -> dict[str, Any]:
    """A dictionary of arrays.

    Raises:
      UserError: there is no such file, or something else is in it.
    """
    try:
        with open(path, "rb") as file:
            found = _Unpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except Exception as error:  # whatever the bytes lead the unpickler to
        raise UserError(f"{path}: not a pickle of plain arrays ({reason(error)})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds a {type(found).__name__}, not a dictionary of arrays")
    for key, value in found.items():
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            raise UserError(f"{path}: {key} holds Python objects, which are not admitted")
    return {str(key): _as_array(value) for key, value in found.items()}


def _as_array(value: Any) -> Any:
    """Lists of numbers, as some writers have labels, become arrays."""
    if isinstance(value, list) and value and all(isinstance(v, int) for v in value):
        return np.array(value)
    return value
