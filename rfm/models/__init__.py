"""Architectures by name, and how they become the functions of `rfm.types`.

`create` builds a Flax module from names and numbers, as configs have them. The rest
turns a module into pure functions: `initialise` makes ``(params, batch_stats)``,
`apply_fn` the evaluation-mode ``ApplyFn`` that attacks and flatness take, `train_fn` the
training-mode ``TrainFn``. `from_torch` makes ``(params, batch_stats)`` of published weights,
`to_torch` the other way round.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from rfm.errors import UserError, choose
from rfm.models import resnet
from rfm.models.layers import ACTIVATIONS
from rfm.models.resnet import ROTATION_HEAD as ROTATION_HEAD
from rfm.models.torch_weights import from_torch as from_torch
from rfm.models.torch_weights import to_torch as to_torch
from rfm.types import Images, Logits, Params, TrainFn

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "resnet8": resnet.resnet8,
    "resnet18": resnet.resnet18,
    "resnet50": resnet.resnet50,
    "preact_resnet18": resnet.preact_resnet18,
    "wrn28": resnet.wrn28,
    "wrn34": resnet.wrn34,
    "dm_wrn28": resnet.dm_wrn28,
    "dm_wrn34": resnet.dm_wrn34,
    "dm_wrn70": resnet.dm_wrn70,
}
DTYPES: dict[str, Any] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def create(
    name: str,
    *,
    classes: int,
    width: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    activation: str = "relu",
    dtype: str = "float32",
    dropout: float = 0.0,
    rotation_head: bool = False,
    remat: bool = False,
    cosine_scale: float = 0.0,
) -> nn.Module:
    """The architecture called `name`.

    Args:
      name: a key of `ARCHITECTURES`.
      classes: number of logits.
      width: channels of the first stage; 64 is the original of the ResNets, 16 times the
        widening factor that of the wide ones (160 for WRN-28-10).
      mean: per channel, for whitening inside the model.
      std: likewise.
      activation: a key of `ACTIVATIONS`.
      dtype: of the computation, "float32" or "bfloat16"; parameters and logits stay
        float32.
      dropout: share of values set to 0 in training, inside the blocks.
      rotation_head: return four more logits, of quarter turns.
      remat: save memory in gradients by computing the blocks twice; changes no result.
      cosine_scale: above 0, logits are this times the cosines of features and weights
        (hypersphere embedding, Pang et al., 2020; 1 for their published model).

    Raises:
      UserError: an unknown name, activation or dtype, a width below one, a share that is
        not in [0, 1), or a scale that is negative or not finite.
    """
    architecture = choose("model.name", name, ARCHITECTURES)
    choose("model.activation", activation, ACTIVATIONS)
    compute_dtype = choose("model.dtype", dtype, DTYPES)
    if width < 1:
        raise UserError(f"model.width must be at least 1, got {width}")
    if not 0 <= dropout < 1:
        raise UserError(f"model.dropout must be in [0, 1), got {dropout}")
    if not 0 <= cosine_scale < math.inf:
        raise UserError(f"model.cosine_scale must be a number from 0 up, got {cosine_scale}")
    return architecture(
        classes=classes,
        width=width,
        activation=activation,
        mean=tuple(mean),
        std=tuple(std),
        dtype=compute_dtype,
        dropout=dropout,
        rotation_head=rotation_head,
        remat=remat,
        cosine_scale=cosine_scale,
    )


def initialise(
    model: nn.Module, key: Key[Array, ""], image_shape: tuple[int, int, int]
) -> tuple[Params, PyTree]:
    """Fresh ``(params, batch_stats)`` for inputs of `image_shape`, float32."""
    variables = _init(model, key, tuple(image_shape))
    return variables["params"], variables.get("batch_stats", {})


@functools.partial(jax.jit, static_argnums=(0, 2))
def _init(model: nn.Module, key: Key[Array, ""], image_shape: tuple[int, ...]) -> PyTree:
    return model.init(key, jnp.zeros((1, *image_shape)))


@dataclasses.dataclass(frozen=True)
class EvaluationMode:
    """(batch_stats, params, x) -> logits; compared by value, so that jit recognises it."""

    model: nn.Module

    def __call__(self, batch_stats: PyTree, params: Params, x: Images) -> Logits:
        variables = {"params": params, "batch_stats": batch_stats}
        logits: Logits = self.model.apply(variables, x)  # type: ignore[assignment]
        return logits


@dataclasses.dataclass(frozen=True)
class TrainingMode:
    """Training mode of a module: batch statistics of the batch, and the new ones."""

    model: nn.Module

    def __call__(
        self, variables: PyTree, x: Images, rngs: dict[str, Array]
    ) -> tuple[Logits, PyTree]:
        logits, updated = self.model.apply(
            variables, x, train=True, mutable=["batch_stats"], rngs=rngs
        )
        return logits, updated["batch_stats"]


def apply_fn(model: nn.Module, batch_stats: PyTree) -> jax.tree_util.Partial:
    """The ``ApplyFn`` (params, x) -> logits of `model` in evaluation mode."""
    return jax.tree_util.Partial(EvaluationMode(model), batch_stats)


def train_fn(model: nn.Module, *, axis_name: str | None = None) -> TrainFn:
    """The ``TrainFn`` (variables, x, rngs) -> (logits, new batch_stats) of `model`.

    With `axis_name` it is for use under ``jax.shard_map``: batch statistics are those of
    the batch of all devices.
    """
    return TrainingMode(model.clone(axis_name=axis_name))
