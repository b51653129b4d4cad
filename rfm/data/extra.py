"""Additional training images with pseudo-labels (Carmon et al., 2019).

Two kinds of files: an ``.npz`` with `images` (uint8, n h w c) and `labels` (integers), as
`dumps` makes them, and the published pickle of 500,000 images from 80 Million Tiny Images
(a dictionary with `data` and `extrapolated_targets`). A pickle is a program, so it is not
run as one: `rfm.data.array_pickle` admits the parts of a plain array and refuses all else.
"""

import io
import os
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from rfm import archives
from rfm.archives import reason
from rfm.data import array_pickle
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


def _unpickled(path: str) -> dict[str, Any]:
    """A dictionary of arrays.

    Raises:
      UserError: there is no such file, or something else is in it.
    """
    try:
        with open(os.path.expanduser(path), "rb") as file:
            found = array_pickle.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except Exception as error:  # whatever the bytes lead the unpickler to
        raise UserError(f"{path}: not a pickle of plain arrays ({reason(error)})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds a {type(found).__name__}, not a dictionary of arrays")
    return {str(key): _as_array(value) for key, value in found.items()}


def _as_array(value: Any) -> Any:
    """Lists of numbers, as some writers have labels, become arrays."""
    if isinstance(value, list) and value and all(isinstance(v, int) for v in value):
        return np.array(value)
    return value
