"""The loss at the weights themselves, the term that every measure subtracts."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from rfm import loops, losses
from rfm.attacks import PGD
from rfm.batching import batches
from rfm.devices import fetch, shard
from rfm.types import (
    ApplyFn,
    Images,
    Keys,
    Labels,
    LogitsFn,
    Params,
    PerExample,
    bind,
    example_keys,
)


def reference(
    apply_fn: ApplyFn,
    params: Params,
    x: Images,
    y: Labels,
    key: Keys,
    *,
    attack: PGD | None,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Float[np.ndarray, " n"]:
    """Per-example losses at `params`: RLoss by `attack`, or Loss if that is None.

    The paper takes PGD with 20 steps and 10 restarts here (Section D). The result can be
    given to any number of measures of the same model and examples.

    Args:
      apply_fn: the model, evaluation mode.
      params: its parameters.
      x: inputs (n, h, w, c) in [0, 1].
      y: labels (n,).
      key: one key, or one per example.
      attack: how to attack, e.g. ``rfm.attacks.PGD(...)``; None for the clean loss.
      batch_size: examples at a time; all batches share one compilation.
      mesh: devices to spread the work over; see `rfm.devices`.
      on_batch: called with the number of examples done after each batch.

    Returns:
      Losses, shape (n,), float64 on the host.

    Example:
      >>> import jax, jax.numpy as jnp, rfm
      >>> apply_fn = lambda w, x: jnp.concatenate([0 * x, w * x], axis=1)
      >>> x, y, key = jnp.ones((1, 1)), jnp.array([1]), jax.random.key(0)
      >>> losses = rfm.flatness.reference(apply_fn, jnp.array([2.0]), x, y, key, attack=None)
      >>> print(losses.round(3))  # log(1 + exp(-2))
      [0.127]
    """
    keys = example_keys(key, len(x))
    logits_fn, done = bind(apply_fn, params), []
    for batch in batches(len(x), batch_size):
        rows = batch.indices
        images, labels, example_key = shard((x[rows], y[rows], keys[rows]), mesh)
        loss = perturbed_loss(logits_fn, images, labels, example_key, attack)
        done.append(fetch(loss).astype(np.float64)[batch.valid])
        on_batch(sum(map(len, done)))
    return np.concatenate(done)


def perturbed_loss(
    logits_fn: LogitsFn, x: Images, y: Labels, keys: Key[Array, " n"], attack: PGD | None
) -> PerExample:
    """Cross-entropy per example, at adversarial inputs if there is an attack."""
    if attack is None:
        return clean_loss(logits_fn, x, y)
    return attack(logits_fn, x, y, keys).loss


@functools.partial(jax.jit)
def clean_loss(logits_fn: LogitsFn, x: Images, y: Labels) -> PerExample:
    """Cross-entropy per example at the inputs themselves."""
    return losses.cross_entropy(logits_fn(x), y)


def may_compile(logits_fn: LogitsFn, x: Images | np.ndarray, attack: PGD | None) -> bool:
    """May `perturbed_loss` be inside of a compiled loop? See `rfm.loops`."""
    if attack is None:
        return loops.runs_fast_in_loops(logits_fn, x, gradient=False)
    if attack.compiled is not None:
        return attack.compiled
    return loops.runs_fast_in_loops(logits_fn, x)
