"""Average-case flatness, Eq. (3) of the supplement.

::

    E_nu[ max_{||delta|| <= eps} L(f(x + delta; w + nu), y) ]
        - max_{||delta|| <= eps} L(f(x + delta; w), y)

The expectation is over weight perturbations drawn from a relative ball; for every
draw the inputs are attacked anew. Each batch of examples has its own draws
(Section D: "done per-batch").
"""

import functools
import itertools
from collections.abc import Callable

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from rfm.attacks import PGD
from rfm.attacks._common import fold
from rfm.batching import batches
from rfm.flatness._pieces import results
from rfm.flatness.reference import may_compile, perturbed_loss
from rfm.flatness.reference import reference as reference_losses
from rfm.flatness.result import Flatness
from rfm.perturb import RelativeBall
from rfm.types import (
    ApplyFn,
    Images,
    Labels,
    Params,
    PerExample,
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
    mesh: Mesh | None = None,
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
      mesh: devices to spread the work over; see `rfm.devices`.
      on_batch: called with the number of examples done after each batch.

    Returns:
      A `Flatness`; its `samples` have shape (samples, n).

    Raises:
      ValueError: `samples` is not positive, or `reference` has another length than `x`.

    Example:
      >>> import jax, jax.numpy as jnp, rfm
      >>> apply_fn = lambda w, x: jnp.concatenate([0 * x, w * x], axis=1)
      >>> x, y, key = jnp.ones((1, 1)), jnp.array([1]), jax.random.key(0)
      >>> w, ball = jnp.array([2.0]), rfm.perturb.RelativeBall(radius=0.5, drawn="sphere")
      >>> flat = rfm.flatness.average_case(apply_fn, w, x, y, key, ball=ball, attack=None)
      >>> print(sorted({float(loss) for loss in flat.samples.round(3).ravel()}))  # w = 3, w = 1
      [0.049, 0.313]
    """
    if samples < 1:
        raise ValueError(f"need at least one weight sample, got {samples}")
    weight_key, input_key, reference_key = jax.random.split(key, 3)
    if reference is None:
        reference = reference_losses(
            apply_fn, params, x, y, reference_key, attack=attack, batch_size=batch_size, mesh=mesh
        )
    if len(reference) != len(x):
        raise ValueError(f"reference has {len(reference)} losses for {len(x)} examples")
    keys, cut = example_keys(input_key, len(x)), list(batches(len(x), batch_size))
    pieces = (
        (
            (x[batch.indices], y[batch.indices], keys[batch.indices]),
            (jax.random.fold_in(weight_key, 0 if fixed else number), np.int32(draw)),
        )
        for number, batch in enumerate(cut)
        for draw in range(samples)
    )
    model = as_partial(apply_fn), params
    compiled = may_compile(bind(apply_fn, params), x[:1], attack)
    found = results(_loss, (ball, attack), model, pieces, mesh=mesh, compiled=compiled)
    done: list[np.ndarray] = []
    for batch in cut:
        losses = np.array(list(itertools.islice(found, samples)), np.float64)
        done.append(losses[:, batch.valid])
        on_batch(sum(v.shape[1] for v in done))
    share_draws = len(x) if fixed else batch_size
    return Flatness(np.concatenate(done, axis=1), np.asarray(reference, np.float64), share_draws)


def _loss(
    settings: tuple[RelativeBall, PGD | None],
    model: tuple[ApplyFn, Params],
    examples: tuple[Images, Labels, Key[Array, " n"]],
    draw: tuple[Key[Array, ""], Int[Array, ""]],
) -> PerExample:
    """Losses of one batch under one draw."""
    ball, attack = settings
    apply_fn, params = model
    x, y, keys = examples
    key, sample = draw
    perturbed = _draw(ball, params, jax.random.fold_in(key, sample))
    return perturbed_loss(bind(apply_fn, perturbed), x, y, fold(keys, sample), attack)


@functools.partial(jax.jit, static_argnums=0)
def _draw(ball: RelativeBall, params: Params, key: Key[Array, ""]) -> Params:
    """Parameters ``w + nu`` with ``nu`` drawn from the ball around `params`."""
    return optax.tree.add(params, ball.sample(key, params))
