"""Models as files: a compiled program and its weights, without the code that made them.

`save` writes an ``ApplyFn`` and its parameters as one ``.npz`` with JAX's serialised
program (`jax.export`) for CPU, CUDA and TPU, any number of inputs and derivatives of first
and second order::

    save("model.npz", apply_fn, params, image_shape=(32, 32, 3))
    model = load("model.npz")
    logits = model.apply_fn(model.params, x)

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
from rfm.files import write_atomically
from rfm.types import ApplyFn, Images, Logits, Params, as_partial, leaf_name

_FORMAT = "rfm-exported-2"
# Derivatives that can be taken: the Hessian is reverse over reverse, and what each example has
# of an eigenvalue is one more.
_ORDERS = 3


class Exported(NamedTuple):
    """A model from a file.

    Attributes:
      apply_fn: ``ApplyFn``, evaluation mode.
      params: the leaves that may be perturbed, by path.
      image_shape: of its inputs, (height, width, channels).
      classes: number of logits.
      precision: of its matrix products; it cannot be changed any more.
      sha256: of the program and the weights.
    """

    apply_fn: jax.tree_util.Partial
    params: dict[str, Array]
    image_shape: tuple[int, int, int]
    classes: int
    precision: str
    sha256: str


def dumps(
    apply_fn: ApplyFn, params: Params, *, image_shape: tuple[int, int, int], precision: str
) -> bytes:
    """A model as the content of an ``.npz`` file.

    Args:
      apply_fn: evaluation mode, (params, x) -> logits; any number of inputs must do.
      params: the leaves that may be perturbed.
      image_shape: (height, width, channels); inputs are float32.
      precision: of matrix products, as in ``jax.default_matmul_precision``. It becomes
        part of the program: where it runs, it cannot be changed any more.

    Raises:
      ValueError: `apply_fn` asks for the number of inputs by ``len(x)`` (``x.shape[0]``
        works), or two leaves have the same path.
    """
    constants, rest = jax.tree.flatten(as_partial(apply_fn))
    constants = [jnp.asarray(leaf) for leaf in constants]
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    named = {leaf_name(p): jnp.asarray(leaf) for p, leaf in flat}
    if len(named) < len(flat):
        raise ValueError("two leaves of params have the same path")

    def call(params: dict[str, Array], constants: list[Array], x: Images) -> Logits:
        leaves = [params[leaf_name(p)] for p, _ in flat]
        logits: Logits = jax.tree.unflatten(rest, constants)(jax.tree.unflatten(treedef, leaves), x)
        return logits

    n = export.symbolic_shape("n")[0]
    x = jax.ShapeDtypeStruct((n, *image_shape), jnp.float32)
    specs = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), (named, constants))
    to_export = export.export(jax.jit(call), platforms=("cpu", "cuda", "tpu"))
    try:
        with jax.default_matmul_precision(precision):
            exported = to_export(*specs, x)
            program = exported.serialize(vjp_order=_ORDERS)
    except TypeError as error:
        if "_DimExpr" not in str(error):
            raise
        raise ValueError(
            "apply_fn must take any number of inputs: x.shape[0] is a symbol here, which len(x)"
            " and int() cannot give"
        ) from error
    arrays = {f"params/{name}": leaf for name, leaf in named.items()}
    arrays |= {f"constants/{i}": leaf for i, leaf in enumerate(constants)}
    about = {
        "format": _FORMAT,
        "image_shape": list(image_shape),
        "classes": int(exported.out_avals[0].shape[-1]),
        "precision": precision,
        "dtypes": {name: leaf.dtype.name for name, leaf in arrays.items()},
    }
    content = io.BytesIO()
    stored = {name: _storable(leaf) for name, leaf in arrays.items()}
    stored["about"], stored["program"] = np.array(json.dumps(about)), np.frombuffer(program, "u1")
    np.savez(content, allow_pickle=False, **stored)
    return content.getvalue()


def save(
    path: str | Path,
    apply_fn: ApplyFn,
    params: Params,
    *,
    image_shape: tuple[int, int, int],
    precision: str = "highest",
) -> None:
    """Writes a model to a file; arguments as in `dumps`."""
    content = dumps(apply_fn, params, image_shape=image_shape, precision=precision)
    write_atomically(Path(path).expanduser(), content)


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
        program = arrays.pop("program").tobytes()
        checksum = hashlib.sha256(program)
        exported = export.deserialize(bytearray(program))
        height, width, channels = map(int, about["image_shape"])
        made = {}
        for name in sorted(arrays):
            checksum.update(name.encode() + arrays[name].tobytes())
            made[name] = jnp.asarray(arrays[name]).astype(about["dtypes"][name])
        params = {k.removeprefix("params/"): v for k, v in made.items() if k.startswith("params/")}
        constants = [made[f"constants/{i}"] for i in range(len(made) - len(params))]
        return Exported(
            jax.tree_util.Partial(_Program(exported), constants),
            params,
            (height, width, channels),
            int(about["classes"]),
            str(about["precision"]),
            checksum.hexdigest(),
        )
    except Exception as error:  # JAX's reader raises whatever the bytes lead it to
        why = archives.reason(error)
        raise UserError(f"{path} is no exported model: rfm export writes one ({why})") from error


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """(constants, params, x) -> logits."""

    program: Any

    def __call__(self, constants: list[Array], params: dict[str, Array], x: Images) -> Logits:
        logits: Logits = self.program.call(params, constants, x)
        return logits


def _storable(leaf: Array) -> np.ndarray:
    """NumPy's format has no bfloat16 and its like; float32 holds them exactly."""
    narrow = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
    return np.asarray(leaf.astype(jnp.float32) if narrow else leaf)
