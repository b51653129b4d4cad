"""Weights of PyTorch, by the names under which they are published.

`from_torch` turns a published ``state_dict`` into ``(params, batch_stats)``, `to_torch` the
other way round::

    model = models.create("wrn28", classes=10, width=160, mean=(0.0,) * 3, std=(1.0,) * 3)
    params, batch_stats = models.from_torch(weights.read("Carmon2019Unlabeled.pt"), model)

The names are those of `rfm.models.published`. Because the scale of a normalisation is an
offset from one here, float32 rounds scales below a half by up to 6e-8. Everything else is
kept to the bit, and from the second trip on all of it.
"""

import collections
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import unfreeze
from jaxtyping import PyTree

from rfm.errors import UserError
from rfm.models.published import PUBLISHED, Leaf, Path, leaves
from rfm.models.resnet import ResNet
from rfm.models.weights import to_numpy, unfit
from rfm.types import Params

# How networks and what is put in front of them call the buffers for whitening (RobustBench;
# DeepMind and others; MadryLab/robustness), and which of mean and deviation each one is.
_WHITENING = {"mu": 0, "sigma": 1, "mean": 0, "std": 1, "new_mean": 0, "new_std": 1}
# MadryLab/robustness keeps the network a second time, inside of its attacker.
_SECOND = "attacker.model."


def from_torch(state_dict: Mapping[str, Any], architecture: nn.Module) -> tuple[Params, PyTree]:
    """``(params, batch_stats)`` of `architecture`, float32, from published weights.

    Every tensor is used exactly once and every leaf filled. Wrappers put something in front
    of all names (``module.``, ``model.``, ``1.``), which is taken off. Buffers for whitening
    must hold what the architecture whitens with; they may be missing, as in many files. Known
    to be of no consequence, and passed over, are ``num_batches_tracked`` and the ``sub_block1``
    that TRADES' WideResNet has and never calls.

    Args:
      state_dict: arrays of NumPy or tensors of PyTorch, of any floating-point type, by name.
      architecture: what `rfm.models.create` returns.

    Raises:
      UserError: a tensor is missing, left over, of another shape, not finite, or another
        whitening; the message has one line for each. Or the architecture has a rotation head,
        which no published one has.
      TypeError: the architecture is no network of this library.
    """
    network = _network(architecture)
    expected = {leaf.name: leaf for leaf in leaves(network)}
    arrays = {name: _wide(to_numpy(value)) for name, value in state_dict.items()}
    prefix = _prefix(arrays, expected)
    problems = {prefix + name: "missing" for name in expected if prefix + name not in arrays}
    filled: dict[Path, Any] = {}
    for name, array in arrays.items():
        leaf = expected.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if leaf is None:
            problem = _left_over(name, prefix, arrays, expected, network)
        elif not (problem := _unfit(leaf, array)):
            filled[leaf.path] = jnp.asarray(leaf.kind.here(array), jnp.float32)
        if problem:
            problems[name] = problem
    if problems:
        listed = [f"{name}: {problem}" for name, problem in problems.items()]
        raise UserError("\n  ".join([_summary(arrays, prefix, expected, network), *listed]))
    tree = traverse_util.unflatten_dict(filled)
    return tree["params"], tree["batch_stats"]


def to_torch(params: Params, batch_stats: PyTree, architecture: nn.Module) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: a ``state_dict`` for classes that whiten as it does.

    It has ``num_batches_tracked`` (0: with a momentum, PyTorch counts batches and does not
    use the number) and the buffers for whitening: `mu` and `sigma` where the architecture
    whitens, `mean` and `std` always in DeepMind's. It has no ``sub_block1``, which RobustBench's
    WideResNet has only if asked, and TRADES' always. Activations are not in it.

    Args:
      params: of `architecture`.
      batch_stats: likewise.
      architecture: what `rfm.models.create` returns.

    Returns:
      Arrays of the leaves' types by published name, in C order.

    Raises:
      UserError: the architecture has a rotation head, which no published one has.
      TypeError: it is no network of this library.
      ValueError: the trees are not those of `architecture`.
    """
    network = _network(architecture)
    published, expected = PUBLISHED[network.block], list(leaves(network))
    variables = {"params": unfreeze(params), "batch_stats": unfreeze(batch_stats)}
    flat = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(variables).items()}
    if {path: leaf.shape for path, leaf in flat.items()} != {e.path: e.shape for e in expected}:
        raise ValueError("params and batch_stats are not those of the architecture")
    found = {}
    for leaf in expected:
        found[leaf.name] = np.array(leaf.kind.there(flat[leaf.path]), order="C")
        if leaf.kind.name == "running_var":
            found[f"{leaf.module}.num_batches_tracked"] = np.zeros((), np.int64)
    if published.always_whitens or any(network.mean) or any(s != 1 for s in network.std):
        before, behind = ((1,) * axes for axes in published.whitening_axes)
        for name, values in zip(published.whitening, (network.mean, network.std), strict=True):
            found[name] = np.array(values, np.float32).reshape(*before, -1, *behind)
    return found


def _network(architecture: nn.Module) -> ResNet:
    if not isinstance(architecture, ResNet) or architecture.block not in PUBLISHED:
        raise TypeError(f"no published names are known for {type(architecture).__name__}")
    if architecture.rotation_head:
        raise UserError(
            "model.rotation_head: published networks of PyTorch have none; leave it off"
        )
    return architecture


def _wide(array: np.ndarray) -> np.ndarray:
    """Half precision as float32, before anything is computed with it."""
    narrow = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
    return array.astype(np.float32) if narrow else array


def _prefix(arrays: Mapping[str, np.ndarray], expected: Mapping[str, Leaf]) -> str:
    """What is in front of the names of the network's own tensors: what is in front of most."""
    found: collections.Counter[str] = collections.Counter()
    for name in arrays:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in expected:
                found["".join(f"{part}." for part in parts[:i])] += 1
    prefix = max(found, key=lambda prefix: (found[prefix], -len(prefix)), default="")
    # Endings of a few names agree between networks by chance.
    return prefix if 2 * found[prefix] >= len(expected) else ""


def _unfit(leaf: Leaf, array: np.ndarray) -> str:
    return unfit(array, leaf.shape_there, variances=leaf.kind.name == "running_var")


def _left_over(
    name: str,
    prefix: str,
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, Leaf],
    network: ResNet,
) -> str:
    """What is wrong with a tensor that fills no leaf; empty if it is known."""
    inside = name.removeprefix(prefix)
    module, _, last = inside.rpartition(".")
    if inside.split(".")[0] == PUBLISHED[network.block].uncalled:
        return ""
    if last == "num_batches_tracked" and f"{module}.running_var" in expected:
        return ""
    if last in _WHITENING:
        return _other_whitening(last, arrays[name], network)
    _, second, twin = name.partition(_SECOND)
    if second and prefix + twin in arrays:
        same = np.array_equal(arrays[name], arrays[prefix + twin], equal_nan=True)
        return "" if same else f"differs from {prefix + twin}"
    return "unexpected"


def _other_whitening(name: str, array: np.ndarray, network: ResNet) -> str:
    if problem := unfit(array, array.shape):
        return problem
    which = _WHITENING[name]
    expected = (network.mean, network.std)[which]
    found = array.reshape(-1)
    if len(found) == len(expected) and np.allclose(found, expected, rtol=1e-5, atol=1e-7):
        return ""
    field = ("model.mean", "model.std")[which]
    return f"whitens with {_listed(found)}, {field} is {_listed(expected)}"


def _listed(values: Any) -> str:
    return "(" + ", ".join(f"{float(value):.6g}" for value in values) + ")"


def _summary(
    arrays: Mapping[str, np.ndarray], prefix: str, expected: Mapping[str, Leaf], network: ResNet
) -> str:
    """The first line: that the weights do not fit, and whose they might be."""
    own = PUBLISHED[network.block].network
    like: list[str] = []
    if sum(prefix + name in arrays for name in expected) < len(expected) / 2:
        for other in PUBLISHED.values():
            first = other.module(("stage1_block1", "conv1")) + ".weight"
            like += [other.network] * any(name.endswith(first) for name in arrays)
    hint = f" (they have names of {' or '.join(like)})" if like and own not in like else ""
    return f"the weights do not fit {own} of {len(expected)} tensors{hint}:"
