"""Files of weights: named arrays, from PyTorch and elsewhere.

`read` takes what weights are published as: ``.pt``, ``.pth`` and ``.pth.tar`` of PyTorch,
``.safetensors`` and ``.npz``. Nothing is unpickled but numbers: PyTorch reads with
``weights_only=True``, NumPy with ``allow_pickle=False``. `write_safetensors` writes the one
format that every framework reads and that can hold nothing else.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

from rfm import archives
from rfm.archives import reason
from rfm.errors import UserError

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
      Arrays of the types of the file, but bfloat16 of PyTorch's as float32.

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
            raise UserError(f"{path}: there is no such file")
        found = readers[suffix](str(path), expanded)
    else:
        raise UserError(f"{path}: weights are .pt, .pth, .pth.tar, .safetensors or .npz files")
    if not found:
        raise UserError(f"{path}: holds no weights")
    return found


def write_safetensors(
    path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> None:
    """Writes arrays to a ``.safetensors`` file, and a small JSON file beside it.

    Args:
      path: of the first; the other has ``.json`` instead of ``.safetensors``.
      arrays: by name, of numbers.
      about: what they are, for JSON.

    Raises:
      UserError: a file cannot be written, or the name does not end in ``.safetensors``.
    """
    target = Path(path).expanduser()
    if target.suffix != ".safetensors":
        raise UserError(f"{path}: the name must end in .safetensors")
    text = json.dumps(dict(about), indent=2) + "\n"
    # The format takes the bytes as they lie in memory.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        save_file(contiguous, target)
        target.with_suffix(".json").write_text(text)
    except (OSError, safetensors.SafetensorError) as error:
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
    tensors = _tensors(content, torch.is_tensor)
    wide = (
        t.detach().float() if t.dtype == torch.bfloat16 else t.detach() for t in tensors.values()
    )
    return {name: tensor.numpy() for name, tensor in zip(tensors, wide, strict=True)}


def _tensors(content: Any, is_tensor: Any) -> dict[str, Any]:
    """The named tensors of a checkpoint."""
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if is_tensor(value)}
        if tensors:
            return tensors
        content = next((content[name] for name in _NESTED if name in content), None)
    return {}
