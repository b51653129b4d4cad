"""Models as files: a compiled program and its weights, without the code that made them.

`save` writes an ``ApplyFn`` and its parameters as one ``.npz`` with JAX's serialised
program (`jax.export`) for CPU, CUDA and TPU, any number of inputs and derivatives of first
and second order::

    save("model.npz", apply_fn, params, image_shape=(32, 32, 3))
    apply_fn, params, image_shape, classes = load("model.npz")

A file of somebody else's runs their program when the model is called, but nothing in it is
unpickled.
"""

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array

from rfm import archives
from rfm.errors import UserError
from rfm.types import ApplyFn, Images, Logits, Params, as_partial

_FORMAT = "rfm-exported-1"
_ORDERS = 2  # derivatives that can be taken: the Hessian is reverse over reverse


class Exported(NamedTuple):
    """A model from a file.

    Attributes:
      apply_fn: ``ApplyFn``, evaluation mode.
      params: the leaves that may be perturbed, by path.
      image_shape: of its inputs, (height, width, channels).
      classes: number of logits.
      sha256: of the file.
    """

    apply_fn: jax.tree_util.Partial
    params: dict[str, Array]
    image_shape: tuple[int, int, int]
    classes: int
    sha256: str


def save(
    path: str | Path, apply_fn: ApplyFn, params: Params, *, image_shape: tuple[int, int, int]
) -> None:
    """Writes a model.

    Args:
      path: of the file, an ``.npz``.
      apply_fn: evaluation mode, (params, x) -> logits; any number of inputs must do.
      params: the leaves that may be perturbed.
      image_shape: (height, width, channels); inputs are float32.

    Raises:
      ValueError: `apply_fn` asks for the number of inputs by ``len(x)``; ``x.shape[0]`` works.
    """
    function = as_partial(apply_fn)
    constants, rest = jax.tree.flatten(function)
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    named = {_name(p): jnp.asarray(leaf) for p, leaf in flat}

    def call(params: dict[str, Array], constants: list[Array], x: Images) -> Logits:
        leaves = [params[_name(p)] for p, _ in flat]
        logits: Logits = jax.tree.unflatten(rest, constants)(jax.tree.unflatten(treedef, leaves), x)
        return logits

    n = export.symbolic_shape("n")[0]
    x = jax.ShapeDtypeStruct((n, *image_shape), jnp.float32)
    specs = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), (named, constants))
    to_export = export.export(jax.jit(call), platforms=("cpu", "cuda", "tpu"))
    try:
        exported = to_export(*specs, x)
    except TypeError as error:
        if "_DimExpr" not in str(error):
            raise
        raise ValueError(
            "apply_fn must take any number of inputs: x.shape[0] is a symbol here, which len(x)"
            " and int() cannot give"
        ) from error
    program = np.frombuffer(exported.serialize(vjp_order=_ORDERS), np.uint8)
    about = {
        "format": _FORMAT,
        "image_shape": list(image_shape),
        "classes": int(exported.out_avals[0].shape[-1]),
    }
    arrays: dict[str, Any] = {f"params/{name}": np.asarray(leaf) for name, leaf in named.items()}
    arrays |= {f"constants/{i}": np.asarray(leaf) for i, leaf in enumerate(constants)}
    content = io.BytesIO()
    np.savez(content, about=np.array(json.dumps(about)), program=program, **arrays)
    Path(path).write_bytes(content.getvalue())


def load(path: str | Path) -> Exported:
    """Reads what `save` wrote.

    Raises:
      UserError: the file is missing, damaged, or something else.
    """
    arrays = archives.read(str(path), "rfm export writes one")
    try:
        about = json.loads(str(arrays.pop("about")))
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']!r}")
        program = export.deserialize(bytearray(arrays.pop("program").tobytes()))
        height, width, channels = map(int, about["image_shape"])
        classes = int(about["classes"])
    except Exception as error:  # JAX's reader raises whatever the bytes lead it to
        why = archives.reason(error)
        raise UserError(f"{path} is no exported model: rfm export writes one ({why})") from error
    params = {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}
    constants = [arrays[f"constants/{i}"] for i in range(len(arrays) - len(params))]
    return Exported(
        jax.tree_util.Partial(_Program(program), jax.tree.map(jnp.asarray, constants)),
        jax.tree.map(jnp.asarray, params),
        (height, width, channels),
        classes,
        hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest(),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """(constants, params, x) -> logits."""

    program: Any

    def __call__(self, constants: list[Array], params: dict[str, Array], x: Images) -> Logits:
        logits: Logits = self.program.call(params, constants, x)
        return logits


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
