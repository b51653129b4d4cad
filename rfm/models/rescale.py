"""Function-preserving rescaling (Section E of the supplement, Fig. F).

A convolution in front of a batch normalisation can be multiplied by any s > 0 without
changing the function: the normalisation divides by s again. `rescale` does that for all of
them. The running mean and variance become s and s**2 times as large; because the
normalisation adds a small epsilon to the variance, the factor that it multiplies with is
adjusted, too, so that the function is the same to rounding, not only about the same (where
blocks normalise first, all convolutions that a sum is made of must be multiplied together)::

    (1 + gamma') / sqrt(s^2 v + epsilon) * s = (1 + gamma) / sqrt(v + epsilon)

Measures in relative balls do not see the change; eigenvalues of the Hessian do. Two layers
with a ReLU between them have the same freedom: `rescale_pair` (Dinh et al., 2017).
"""

import re
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import traverse_util
from flax.core import unfreeze
from jaxtyping import PyTree

from rfm.types import Params


def convolutions_before_norm(params: Params) -> dict[str, str]:
    """Which convolutions of an architecture of `rfm.models` can be multiplied together.

    By path of the convolution the path of the normalisation that comes next: "stem":
    "stem_norm", "stage1_block1/conv1": "stage1_block1/norm1". It is all of them, also where
    blocks normalise first and a final normalisation ends the network ("stage1_block1/conv2":
    "stage1_block2/norm1"): what runs past the blocks is a sum of outputs of convolutions, and
    all that read it normalise it. Without a final normalisation (`preact_resnet18`) the last
    linear layer reads it as it is, and only the first convolution of each block is one.

    Raises:
      ValueError: a convolution without a normalisation.
    """
    flat = traverse_util.flatten_dict(unfreeze(params))
    modules = sorted(path[:-2] for path in flat if path[-2:] == ("conv", "kernel"))
    if ("stem",) in modules and ("stem_norm", "bias") not in flat:
        return _next_norms(modules, final_norm=("final_norm", "bias") in flat)
    found = {}
    for module in modules:
        name = module[-1]
        norm = name.replace("conv", "norm") if "conv" in name else f"{name}_norm"
        if (*module[:-1], norm, "bias") not in flat:
            raise ValueError(f"no normalisation {norm!r} beside {'/'.join(module)}")
        found["/".join(module)] = "/".join((*module[:-1], norm))
    return found


def _next_norms(modules: Sequence[tuple[str, ...]], *, final_norm: bool) -> dict[str, str]:
    """`convolutions_before_norm` of networks whose blocks normalise first."""
    names = {module[0] for module in modules if len(module) == 2}
    order = sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    behind = dict(zip(order, [*(f"{name}/norm1" for name in order[1:]), "final_norm"], strict=True))
    found = {"stem": f"{order[0]}/norm1"} if final_norm else {}
    for block, name in (module for module in modules if len(module) == 2):
        if name == "conv1":
            found[f"{block}/{name}"] = f"{block}/norm2"
        elif final_norm:
            found[f"{block}/{name}"] = behind[block]
    return found


def rescale(
    params: Params,
    batch_stats: PyTree,
    factor: float,
    *,
    convolutions: Mapping[str, str] | None = None,
    epsilon: float = 1e-5,
    scale_offset: float = 1.0,
) -> tuple[Params, PyTree]:
    """The same function with all convolutions before a normalisation multiplied by `factor`.

    Args:
      params: nested dictionaries, as of Flax; every array below a convolution's path (its
        kernel, its bias) is multiplied.
      batch_stats: nested likewise, with `mean` and `var` of each normalisation.
      factor: s, positive.
      convolutions: path of each convolution to the path of the normalisation behind it;
        None: `convolutions_before_norm`.
      epsilon: what the normalisations add to the variance.
      scale_offset: they multiply by ``scale_offset + scale``; 0 for ``flax.linen.BatchNorm``.

    Returns:
      New ``(params, batch_stats)``.

    Raises:
      ValueError: `factor` is not positive and finite, or a path is not there.
    """
    _check(factor)
    pairs = convolutions_before_norm(params) if convolutions is None else convolutions
    flat = traverse_util.flatten_dict(unfreeze(params))
    stats = traverse_util.flatten_dict(unfreeze(batch_stats))
    new, new_stats = dict(flat), dict(stats)
    for convolution, norm in pairs.items():
        module = tuple(convolution.split("/"))
        below = [path for path in flat if path[: len(module)] == module]
        mean, var, scale = ((*norm.split("/"), leaf) for leaf in ("mean", "var", "scale"))
        if not below or mean not in stats or var not in stats or scale not in flat:
            raise ValueError(f"no convolution {convolution!r} with a normalisation {norm!r}")
        for path in below:
            new[path] = flat[path] * factor
        new_stats[mean], new_stats[var] = stats[mean] * factor, stats[var] * factor**2
        grown = jnp.sqrt((new_stats[var] + epsilon) / (stats[var] + epsilon)) / factor
        new[scale] = (scale_offset + flat[scale]) * grown - scale_offset
    return traverse_util.unflatten_dict(new), traverse_util.unflatten_dict(new_stats)


def rescale_pair(params: Params, first: str, second: str, factor: float) -> Params:
    """Multiplies one layer by `factor` and the kernel of the next one by its inverse.

    With only a ReLU between them the function stays the same: ``relu(a z) = a relu(z)``.

    Args:
      params: nested dictionaries, as of Flax.
      first: path of a layer; all arrays below it are multiplied.
      second: path of the layer behind it; its `kernel` is divided.
      factor: alpha, positive.

    Raises:
      ValueError: `factor` is not positive and finite, or a path is not there.
    """
    _check(factor)
    flat = traverse_util.flatten_dict(unfreeze(params))
    begin, kernel = tuple(first.split("/")), (*second.split("/"), "kernel")
    below = [path for path in flat if path[: len(begin)] == begin]
    if not below or kernel not in flat:
        raise ValueError(f"no layers {first!r} and {second!r}, the second with a kernel")
    changed = {path: flat[path] * factor for path in below} | {kernel: flat[kernel] / factor}
    return traverse_util.unflatten_dict({**flat, **changed})


def _check(factor: float) -> None:
    if not 0 < factor < float("inf"):
        raise ValueError(f"the factor must be positive and finite, got {factor}")
