"""Average-case flatness, Eq. (3) of the supplement.

::

    E_nu[ max_{||delta|| <= eps} L(f(x + delta; w + nu), y) ]
        - max_{||delta|| <= eps} L(f(x + delta; w), y)

The expectation is over weight perturbations drawn from a relative ball; for every
draw the inputs are attacked anew. Each batch of examples has its own draws
(Section D: "done per-batch").
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from rfm import loops
from rfm.attacks import PGD
from rfm.attacks._common import fold
from rfm.batching import batches
from rfm.flatness.reference import perturbed_loss
from rfm.flatness.reference import reference as reference_losses
from rfm.flatness.result import Flatness
from rfm.perturb import RelativeBall
from rfm.types import (
    ApplyFn,
    Images,
    Labels,
    Params,
    PerExample,
    Place,
    as_partial,
    bind,
    example_keys,
)


def average_case(
    apply_fn: ApplyFn,
    params: Params,
    x: Images,
    y: Labels,
    key: Key[Array, ""],
    *,
    ball: RelativeBall,
    samples: int = 10,
    fixed: bool = False,
    attack: PGD | None,
    reference: Float[np.ndarray, " n"] | None = None,
    batch_size: int = 128,
    place: Place = jax.device_put,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Flatness:
    """Mean increase of the (robust) loss under random weight perturbations, Eq. (3).

    The paper: radius 0.5, 10 samples per batch of 128, PGD-20 for each, a reference by
    PGD-20 with 10 restarts, the first 1000 test examples.

    Keys go by batch, draw and example: neither chunks nor devices change the value.

    Args:
      apply_fn: the model, evaluation mode; ideally a ``jax.tree_util.Partial``.
      params: the parameters to perturb.
      x: inputs (n, h, w, c) in [0, 1].
      y: labels (n,).
      key: a single key.
      ball: where weights are drawn from.
      samples: weight draws per batch.
      fixed: the same draws for all batches (Section D's alternative). Then draws, not
        batches of them, limit how exact the value is.
      attack: attack on the inputs for every draw; None measures the clean loss.
      reference: per-example losses at `params` from `rfm.flatness.reference`; None
        computes them with `attack` itself.
      batch_size: examples that share a draw.
      place: puts the arrays of a batch onto devices, e.g. sharded over a mesh.
      on_batch: called with the number of examples done after each batch.

    Returns:
      A `Flatness`; its `samples` have shape (samples, n).

    Raises:
      ValueError: `samples` is not positive, or `reference` has another length than `x`.
    """
    if samples < 1:
        raise ValueError(f"need at least one weight sample, got {samples}")
    weight_key, input_key, reference_key = jax.random.split(key, 3)
    if reference is None:
        reference = reference_losses(
            apply_fn, params, x, y, reference_key, attack=attack, batch_size=batch_size, place=place
        )
    if len(reference) != len(x):
        raise ValueError(f"reference has {len(reference)} losses for {len(x)} examples")
    keys = example_keys(input_key, len(x))
    apply_fn, done = as_partial(apply_fn), []
    compiled = loops.runs_fast_in_loops(bind(apply_fn, params), x[:1])
    if attack is not None and attack.compiled is not None:
        compiled = attack.compiled
    loss_of = _loss_compiled if compiled else _loss
    for number, batch in enumerate(batches(len(x), batch_size)):
        rows = batch.indices
        batch_key = jax.random.fold_in(weight_key, 0 if fixed else number)
        images, labels, example_key = place((x[rows], y[rows], keys[rows]))
        found = [
            loss_of(apply_fn, params, images, labels, batch_key, example_key, s, ball, attack)
            for s in range(samples)
        ]
        done.append(np.asarray(jax.device_get(found), np.float64)[:, batch.valid])
        on_batch(sum(v.shape[1] for v in done))
    share_draws = len(x) if fixed else batch_size
    return Flatness(np.concatenate(done, axis=1), np.asarray(reference, np.float64), share_draws)


def _loss(
    apply_fn: ApplyFn,
    params: Params,
    x: Images,
    y: Labels,
    weight_key: Key[Array, ""],
    keys: Key[Array, " n"],
    sample: int,
    ball: RelativeBall,
    attack: PGD | None,
) -> PerExample:
    """Losses of one batch under one draw.

    Draws follow one another, each a dispatch of the same compiled program: vmapped
    weights would make grouped convolutions, and a loop over draws would compile again
    for each number of them.
    """
    perturbed = draw(ball, params, jax.random.fold_in(weight_key, sample))
    return perturbed_loss(bind(apply_fn, perturbed), x, y, fold(keys, sample), attack)


_loss_compiled = jax.jit(_loss, static_argnums=(7, 8))


@functools.partial(jax.jit, static_argnums=0)
def draw(ball: RelativeBall, params: Params, key: Key[Array, ""]) -> Params:
    """Parameters ``w + nu`` with ``nu`` drawn from the ball around `params`."""
    return optax.tree.add(params, ball.sample(key, params))
