"""Files of weights: named arrays, from PyTorch and elsewhere.

`read` takes what weights are published as: ``.pt``, ``.pth`` and ``.pth.tar`` of PyTorch,
``.safetensors`` and ``.npz``. Nothing is unpickled but numbers: PyTorch reads with
``weights_only=True``, NumPy with ``allow_pickle=False``. `write_safetensors` writes the one
format that every framework reads and that can hold nothing else.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save

from rfm import archives
from rfm.archives import reason
from rfm.errors import UserError
from rfm.files import write_atomically

# Under which name training scripts keep the state_dict in a checkpoint.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "weights")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file of weights, by name.

    A checkpoint of PyTorch may hold them one or two levels down, under ``state_dict``,
    ``model_state_dict``, ``model``, ``net`` or ``weights``; what else it holds is not read.

    Args:
      path: of a ``.pt``, ``.pth``, ``.tar``, ``.safetensors`` or ``.npz``; ``~`` is the home
        directory.

    Returns:
      Arrays of the types of the file, but PyTorch's bfloat16 as float32.

    Raises:
      UserError: the file is missing, damaged, holds pickled objects or no arrays, or needs
        PyTorch, which is not installed.
    """
    readers = {".pt": _torch, ".pth": _torch, ".tar": _torch, ".safetensors": _safetensors}
    suffix = Path(path).suffix.lower()
    if suffix == ".npz":
        found = archives.read(str(path), "weights are named arrays of numbers")
    elif suffix in readers:
        expanded = os.path.expanduser(path)
        if not os.path.isfile(expanded):
            there = "is no file" if os.path.exists(expanded) else "there is no such file"
            raise UserError(f"{path}: {there}")
        found = readers[suffix](str(path), expanded)
    else:
        raise UserError(f"{path}: weights are .pt, .pth, .pth.tar, .safetensors or .npz files")
    if not found:
        raise UserError(f"{path}: holds no weights")
    return found


def to_numpy(value: Any) -> np.ndarray:
    """Of a PyTorch tensor, or of anything that NumPy takes.

    Types that NumPy has not, as a tensor's bfloat16, become float32.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        narrow = value.is_floating_point() and value.element_size() < 4
        value = (value.float() if narrow and str(value.dtype) != "torch.float16" else value).numpy()
    return np.asarray(value)


def unfit(array: np.ndarray, shape: tuple[int, ...], *, variances: bool = False) -> str:
    """Why `array` cannot be a network's tensor of `shape`; empty if it can.

    Args:
      array: as it was read.
      shape: that is needed.
      variances: it must not be negative.
    """
    if tuple(array.shape) != tuple(shape):
        return f"has shape {tuple(array.shape)}, not {tuple(shape)}"
    if not jnp.issubdtype(array.dtype, jnp.floating):  # bfloat16 is
        return f"is {array.dtype}, not floating-point"
    if not (np.abs(array.astype(np.float64)) <= np.finfo(np.float32).max).all():
        return "not finite"
    return "has negative variances" if variances and (array < 0).any() else ""


def write_safetensors(
    path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> None:
    """Writes arrays to a ``.safetensors`` file, and a small JSON file beside it.

    Args:
      path: of the first; the other has ``.json`` instead of ``.safetensors``.
      arrays: by name, of numbers.
      about: what they are, for JSON; the checksum of the first file is added.

    Raises:
      UserError: a file cannot be written, or the name does not end in ``.safetensors``.
    """
    target = Path(path).expanduser()
    if target.suffix != ".safetensors":
        raise UserError(f"{path}: the name must end in .safetensors")
    # The format takes the bytes as they lie in memory.
    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    text = json.dumps({**about, "sha256": hashlib.sha256(content).hexdigest()}, indent=2) + "\n"
    try:
        # First what it is: weights are never beside a description of others.
        for file, part in ((target.with_suffix(".json"), text.encode()), (target, content)):
            write_atomically(file, part)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({reason(error)})") from error


def _safetensors(path: str, expanded: str) -> dict[str, np.ndarray]:
    try:
        return load_file(expanded)
    except Exception as error:  # damaged headers end in errors of several libraries
        raise UserError(f"{path}: damaged, or not a .safetensors file ({reason(error)})") from error


def _torch(path: str, expanded: str) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: reading it needs PyTorch, which is not installed: "
            "pip install 'robust-flat-minima[torch]'; .safetensors and .npz do without"
        ) from error
    try:
        content = torch.load(expanded, map_location="cpu", weights_only=True)
    except Exception as error:
        # PyTorch says "Weights only load failed" of every file that it cannot read as tensors:
        # objects that it will not build, and bytes that are no pickle at all.
        if "GLOBAL" in str(error) or "Unsupported class" in str(error):
            raise UserError(
                f"{path}: holds pickled Python objects, which are not loaded; where you trust it, "
                "save its state_dict alone with torch.save"
            ) from error
        raise UserError(f"{path}: damaged, or not a file of PyTorch ({reason(error)})") from error
    arrays = {}
    for name, tensor in _tensors(content, torch.is_tensor).items():
        try:
            arrays[name] = to_numpy(tensor)
        except (TypeError, RuntimeError, NotImplementedError) as error:
            raise UserError(f"{path}: {name} is no plain tensor ({reason(error)})") from error
    return arrays


def _tensors(content: Any, is_tensor: Any) -> dict[str, Any]:
    """The named tensors of a checkpoint; beside its state_dict there may be others, as metrics."""
    while isinstance(content, Mapping):
        below = next((content[n] for n in _NESTED if isinstance(content.get(n), Mapping)), None)
        if below is None:
            return {str(name): value for name, value in content.items() if is_tensor(value)}
        content = below
    return {}
