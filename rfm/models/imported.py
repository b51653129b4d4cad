"""Weights from a file, for a network of this library.

A file has the names of published PyTorch networks (`rfm.models.from_torch`) or this library's
own, ``params/stem/conv/kernel`` and ``batch_stats/stem_norm/mean``; its names say which.
``rfm export`` writes both kinds, and beside each a small JSON which says of what network it is::

    about = imported.about("at-15.safetensors")      # None if there is no such JSON
    found = imported.load("at-15.safetensors", module, image_shape=(32, 32, 3))
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import unfreeze
from jaxtyping import PyTree

from rfm.errors import UserError
from rfm.models import from_torch, weights
from rfm.types import Params

FORMAT = "rfm-weights-1"
"""What the JSON calls itself."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _numbers(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(map(float, value))


_READ: dict[str, Callable[[Any], Any]] = {
    **{"name": _text, "width": _whole, "activation": _text},
    **{"mean": _numbers, "std": _numbers, "cosine_scale": float},
}
ARGUMENTS = tuple(_READ)
"""Those of `rfm.models.create` that decide what a network computes."""

_OWN = ("params", "batch_stats")
_SHOWN = 8  # mismatches in an error, at most


class Imported(NamedTuple):
    """Variables of a network, float32."""

    params: Params
    batch_stats: PyTree


@dataclasses.dataclass(frozen=True)
class About:
    """What the JSON beside a file says.

    Attributes:
      path: of the JSON.
      arguments: of `rfm.models.create`, those of `ARGUMENTS`.
      image_shape: of the network's inputs, (height, width, channels).
      classes: number of logits.
    """

    path: str
    arguments: Mapping[str, Any]
    image_shape: tuple[int, ...]
    classes: int


def own_names(params: Params, batch_stats: PyTree) -> dict[str, np.ndarray]:
    """A network's variables under this library's own names, on the host."""
    tree = {"params": unfreeze(params), "batch_stats": unfreeze(batch_stats)}
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def has_own_names(arrays: Mapping[str, Any]) -> bool:
    """Are these the names of `own_names`, and not those of a PyTorch network?"""
    return bool(arrays) and all(name.split("/")[0] in _OWN and "/" in name for name in arrays)


def load(path: str, module: nn.Module, *, image_shape: tuple[int, ...]) -> Imported:
    """The variables of `module` from a file of weights.

    Args:
      path: of a ``.pt``, ``.pth``, ``.safetensors`` or ``.npz``.
      module: as `rfm.models.create` makes it.
      image_shape: of its inputs, (height, width, channels).

    Raises:
      UserError: the file is missing, damaged, or does not fit; in one line, with the first
        tensors that do not fit. `from_torch` names all of them.
    """
    arrays = weights.read(path)
    try:
        if has_own_names(arrays):
            return _from_own(arrays, module, image_shape)
        return Imported(*from_torch(arrays, module))
    except UserError as error:
        raise UserError(f"{path}: {_in_a_line(error)}") from error


def about(path: str) -> About | None:
    """What the JSON beside a file of weights says, None if `rfm` has not written one.

    Raises:
      UserError: it is damaged.
    """
    file = Path(path).expanduser()
    beside = file.with_suffix(".json") if file.name else file
    found = _described(beside)
    if found is None:
        return None
    if file.is_file() and found.get("sha256") not in (None, sha256(path)):
        raise UserError(f"{beside} describes another file than {path}; move one of them elsewhere")
    try:
        arguments = {name: read(found["model"][name]) for name, read in _READ.items()}
        shape = tuple(int(size) for size in found["image_shape"])
        return About(str(beside), arguments, shape, int(found["classes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{beside} is damaged ({error}); delete it, and say with --model and --config.model"
            " what network the weights are of"
        ) from error


def is_description(path: Path) -> bool:
    """Is this the JSON beside a file of weights, which `rfm` wrote?"""
    return _described(path) is not None


def description(
    arguments: Mapping[str, Any], *, image_shape: tuple[int, ...], classes: int
) -> dict[str, Any]:
    """The JSON that `about` reads; further entries may be added.

    Args:
      arguments: of `rfm.models.create`, at least those of `ARGUMENTS`.
      image_shape: of the network's inputs, (height, width, channels).
      classes: number of logits.
    """
    return {
        "format": FORMAT,
        "model": {name: arguments[name] for name in ARGUMENTS},
        "image_shape": list(image_shape),
        "classes": classes,
    }


def sha256(path: str) -> str:
    """Of a file's bytes, in hexadecimal.

    Raises:
      UserError: it cannot be read.
    """
    expanded = os.path.expanduser(path)
    if not os.path.isfile(expanded):
        raise UserError(f"{path}: there is no such file")
    try:
        with open(expanded, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _from_own(
    arrays: Mapping[str, np.ndarray], module: nn.Module, image_shape: tuple[int, ...]
) -> Imported:
    """As `from_torch`, by our own names: every array once, nothing missing."""
    expected = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    shapes = {
        name: leaf.shape for name, leaf in traverse_util.flatten_dict(expected, sep="/").items()
    }
    problems = [f"{name}: missing" for name in shapes if name not in arrays]
    for name, array in arrays.items():
        if name not in shapes:
            problems.append(f"{name}: unexpected")
        elif problem := weights.unfit(array, shapes[name], variances=name.endswith("/var")):
            problems.append(f"{name}: {problem}")
    if problems:
        raise UserError("\n".join(["these weights are not of this network:", *problems]))
    made = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    tree = traverse_util.unflatten_dict(made, sep="/")
    return Imported(tree["params"], tree.get("batch_stats", {}))


def _in_a_line(error: UserError) -> str:
    """An error with a line for each tensor, shortened."""
    first, *tensors = str(error).splitlines()
    shown = [tensor.strip() for tensor in tensors[:_SHOWN]]
    if len(tensors) > _SHOWN:
        shown.append(f"and {len(tensors) - _SHOWN} more")
    return f"{first} {'; '.join(shown)}".strip()


def _described(path: Path) -> dict[str, Any] | None:
    """A JSON of `FORMAT`; not every JSON beside a file is about it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None
