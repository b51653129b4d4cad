"""Worst-case flatness, Eqs. (5) to (7) of the supplement.

::

    max_{nu in B_xi(w)} max_{||delta|| <= eps} L(f(x + delta; w + nu), y)
        - max_{||delta|| <= eps} L(f(x + delta; w), y)

One weight perturbation nu is shared by all examples of a batch, and it and the input
perturbations ascend the summed loss *jointly*: each iteration takes both gradients at
the same point. The weight gradient is normalised per layer and scaled by the layer's
norm (Eq. (2)) before it is multiplied with the step size. Of all iterates of a restart
the one of highest mean loss counts, and of all restarts the worst.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from rfm import loops, losses
from rfm.attacks import PGD
from rfm.attacks._common import fold, into_box, per_row
from rfm.batching import batches
from rfm.flatness._chunks import in_chunks
from rfm.flatness._pieces import results
from rfm.flatness.reference import reference as reference_losses
from rfm.flatness.result import Flatness
from rfm.perturb import RelativeBall
from rfm.types import (
    ApplyFn,
    Images,
    Labels,
    Params,
    PerExample,
    Threat,
    as_partial,
    bind,
    example_keys,
)


class _Ascent(NamedTuple):
    """What is static about the search."""

    ball: RelativeBall
    threat: Threat | None
    steps: int
    input_step_size: float
    weight_step_size: float
    chunk: int | None


_Examples = tuple[Any, Any, Any, Any]
"""Inputs, labels, which of them count, and their keys."""

_Rows = tuple[Images, Labels, Bool[Array, " n"]]


class _State(NamedTuple):
    nu: Params
    delta: Images
    best_nu: Params
    best_losses: PerExample
    best_mean: Float[Array, ""]


def worst_case(
    apply_fn: ApplyFn,
    params: Params,
    x: Images,
    y: Labels,
    key: Key[Array, ""],
    *,
    ball: RelativeBall,
    threat: Threat | None,
    steps: int = 20,
    restarts: int = 10,
    input_step_size: float = 0.007,
    weight_step_size: float = 0.001,
    reference: Float[np.ndarray, " n"] | None = None,
    batch_size: int = 128,
    chunk: int | None = None,
    compiled: bool | None = None,
    mesh: Mesh | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Flatness:
    """Largest increase of the (robust) loss in a ball around the weights, Eq. (5).

    The paper: radius 0.003, 20 steps, 10 restarts per batch of 128, weight step 0.001
    (the released experiments: 0.01), input step 0.007, the first 1000 test examples.

    Args:
      apply_fn: the model, evaluation mode; ideally a ``jax.tree_util.Partial``.
      params: the parameters to perturb.
      x: inputs (n, h, w, c) in [0, 1].
      y: labels (n,).
      key: a single key.
      ball: where weights may go; each restart begins at a random point of it.
      threat: where inputs may go; None measures the clean loss.
      steps: joint gradient steps per restart.
      restarts: random starts per batch; the worst counts for the batch.
      input_step_size: step of the inputs, in their unit.
      weight_step_size: step of the weights, relative to the norm of each layer.
      reference: per-example losses at `params` from `rfm.flatness.reference`; None
        computes them by PGD with the same threat, steps and restarts.
      batch_size: examples that share a weight perturbation.
      chunk: how many of them go through the model at once; limits memory, changes no result
        but rounding. None: all.
      compiled: put the loop into one compiled program; None: where that is fast, see
        `rfm.loops`.
      mesh: devices to spread the work over; see `rfm.devices`.
      on_batch: called with the number of examples done after each batch.

    Returns:
      A `Flatness` with one draw per batch, the worst.

    Raises:
      ValueError: `steps` is negative, `restarts` or `chunk` is not positive, or `reference`
        has another length than `x`.

    Example:
      >>> import jax, jax.numpy as jnp, rfm
      >>> apply_fn = lambda w, x: jnp.concatenate([0 * x, w * x], axis=1)
      >>> x, y, key = jnp.ones((1, 1)), jnp.array([1]), jax.random.key(0)
      >>> settings = {"ball": rfm.perturb.RelativeBall(radius=0.5), "weight_step_size": 0.1}
      >>> w = jnp.array([2.0])  # at worst 1
      >>> flat = rfm.flatness.worst_case(apply_fn, w, x, y, key, threat=None, **settings)
      >>> print(round(flat.value, 3))  # log(1 + exp(-1)) - log(1 + exp(-2))
      0.186
    """
    _check(steps, restarts, chunk)
    weight_key, input_key, reference_key = jax.random.split(key, 3)
    if reference is None:
        attack = None if threat is None else PGD(threat, steps, input_step_size, restarts)
        reference = reference_losses(
            apply_fn, params, x, y, reference_key, attack=attack, batch_size=batch_size, mesh=mesh
        )
    if len(reference) != len(x):
        raise ValueError(f"reference has {len(reference)} losses for {len(x)} examples")
    ascent = _Ascent(ball, threat, steps, input_step_size, weight_step_size, chunk)
    keys, cut = example_keys(input_key, len(x)), list(batches(len(x), batch_size))
    work = [(x[b.indices], y[b.indices], b.valid, keys[b.indices]) for b in cut]
    found = _climbs(_losses, ascent, apply_fn, params, work, weight_key, restarts, compiled, mesh)
    done: list[np.ndarray] = []
    for batch in cut:
        losses_found, means = zip(*itertools.islice(found, restarts), strict=True)
        worst = losses_found[int(np.argmax(means))]
        done.append(np.asarray(worst, np.float64)[batch.valid])
        on_batch(sum(map(len, done)))
    return Flatness(np.concatenate(done)[None], np.asarray(reference, np.float64), batch_size)


def adversarial_directions(
    apply_fn: ApplyFn,
    params: Params,
    x: Images | np.ndarray,
    y: Labels | np.ndarray,
    key: Key[Array, ""],
    *,
    ball: RelativeBall,
    threat: Threat | None,
    steps: int = 20,
    restarts: int = 10,
    input_step_size: float = 0.007,
    weight_step_size: float = 0.001,
    chunk: int | None = None,
    compiled: bool | None = None,
    mesh: Mesh | None = None,
) -> list[Params]:
    """The weight perturbations that `worst_case` finds on one batch, one for each restart.

    Arguments as in `worst_case`, except that all of `x` is one batch. For landscapes (Section
    C); `RelativeBall.direction` gives them their length.

    Raises:
      ValueError: `steps` is negative, or `restarts` or `chunk` is not positive.
    """
    _check(steps, restarts, chunk)
    ascent = _Ascent(ball, threat, steps, input_step_size, weight_step_size, chunk)
    weight_key, input_key, _ = jax.random.split(key, 3)
    keys, valid = example_keys(input_key, len(x)), np.ones(len(x), bool)
    work = [(np.asarray(x), np.asarray(y), valid, keys)]
    found = _climbs(_weights, ascent, apply_fn, params, work, weight_key, restarts, compiled, mesh)
    return list(found)


def _check(steps: int, restarts: int, chunk: int | None) -> None:
    if steps < 0 or restarts < 1 or (chunk is not None and chunk < 1):
        raise ValueError(
            f"need steps >= 0, restarts >= 1 and chunk >= 1, got {steps}, {restarts} and {chunk}"
        )


def _climbs(
    function: Callable[..., Any],
    ascent: _Ascent,
    apply_fn: ApplyFn,
    params: Params,
    work: list[_Examples],
    key: Key[Array, ""],
    restarts: int,
    compiled: bool | None,
    mesh: Mesh | None,
) -> Iterator[Any]:
    """What `function` returns of every batch and restart, batch by batch."""
    if compiled is None:
        compiled = loops.runs_fast_in_loops(bind(apply_fn, params), work[0][0][:1])
    pieces = (
        (examples, (jax.random.fold_in(key, number), np.int32(restart)))
        for number, examples in enumerate(work)
        for restart in range(restarts)
    )
    model = as_partial(apply_fn), params
    return results(function, (ascent, compiled), model, pieces, mesh=mesh, compiled=compiled)


def _losses(*work: Any) -> tuple[PerExample, Float[Array, ""]]:
    """Losses (n,) at the best iterate of a climb, and their mean."""
    return _climb(*work)[:2]


def _weights(*work: Any) -> Params:
    """Weight perturbation of the best iterate of a climb."""
    return _climb(*work)[2]


def _climb(
    settings: tuple[_Ascent, bool],
    model: tuple[ApplyFn, Params],
    examples: _Examples,
    draw: tuple[Key[Array, ""], Int[Array, ""]],
) -> tuple[PerExample, Float[Array, ""], Params]:
    """The best iterate of one restart on one batch: losses (n,), their mean, and nu."""
    (ascent, compiled), (x, y, valid, keys), (key, restart) = settings, examples, draw
    state = _start(ascent, model[1], x, key, keys, restart)
    state = loops.repeat(
        lambda state: _step(ascent, *model, x, y, valid, state),
        ascent.steps,
        state,
        compiled=compiled,
    )
    return _finish(ascent, *model, x, y, valid, state)


@functools.partial(jax.jit, static_argnums=0)
def _start(
    ascent: _Ascent,
    params: Params,
    x: Images,
    weight_key: Key[Array, ""],
    keys: Key[Array, " n"],
    restart: Int[Array, ""],
) -> _State:
    nu = ascent.ball.sample(jax.random.fold_in(weight_key, restart), params)
    delta = jnp.zeros_like(x)
    threat = ascent.threat
    if threat is not None:
        delta = into_box(x, per_row(threat.sample, fold(keys, restart), x.shape))
    zeros = jnp.zeros(x.shape[0], jnp.promote_types(x.dtype, jnp.float32))
    return _State(nu, delta, nu, zeros, jnp.full((), -jnp.inf, zeros.dtype))


@functools.partial(jax.jit, static_argnums=0)
def _step(
    ascent: _Ascent,
    apply_fn: ApplyFn,
    params: Params,
    x: Images,
    y: Labels,
    valid: Bool[Array, " n"],
    state: _State,
) -> _State:
    def total(nu: Params, delta: Images, rows: _Rows) -> tuple[Array, PerExample]:
        x, y, valid = rows
        loss = losses.cross_entropy(apply_fn(optax.tree.add(params, nu), x + delta), y)
        return jnp.where(valid, loss, 0.0).sum(), loss

    def differentiate(delta: Images, rows: _Rows) -> tuple[Params, tuple[Images, PerExample]]:
        if ascent.threat is None:
            gradient, loss = jax.grad(total, has_aux=True)(state.nu, delta, rows)
            return gradient, (delta, loss)
        both = jax.grad(total, argnums=(0, 1), has_aux=True)
        (gradient, delta_gradient), loss = both(state.nu, delta, rows)
        return gradient, (delta_gradient, loss)

    rows = x, y, valid
    nu_gradient, (delta_gradient, loss) = in_chunks(
        differentiate, ascent.chunk, (state.delta, rows)
    )
    delta = state.delta
    if ascent.threat is not None:
        step = ascent.input_step_size * ascent.threat.steepest_ascent(delta_gradient)
        delta = into_box(x, ascent.threat.project(state.delta + step))
    uphill = ascent.ball.normalise(nu_gradient, params)
    nu = optax.tree.add_scale(state.nu, ascent.weight_step_size, uphill)
    state = _keep_worst(state, loss, valid)
    return state._replace(nu=ascent.ball.project(nu, params), delta=delta)


@functools.partial(jax.jit, static_argnums=0)
def _finish(
    ascent: _Ascent,
    apply_fn: ApplyFn,
    params: Params,
    x: Images,
    y: Labels,
    valid: Bool[Array, " n"],
    state: _State,
) -> tuple[PerExample, Float[Array, ""], Params]:
    def loss_of(x: Images, y: Labels) -> tuple[tuple[()], PerExample]:
        return (), losses.cross_entropy(apply_fn(optax.tree.add(params, state.nu), x), y)

    _, loss = in_chunks(loss_of, ascent.chunk, (x + state.delta, y))
    state = _keep_worst(state, loss, valid)
    return state.best_losses, state.best_mean, state.best_nu


def _keep_worst(state: _State, loss: PerExample, valid: Bool[Array, " n"]) -> _State:
    mean = jnp.where(valid, loss, 0.0).sum() / valid.sum()
    mean = jnp.where(jnp.isnan(mean), jnp.inf, mean)
    better = mean > state.best_mean
    best_nu = jax.tree.map(functools.partial(jnp.where, better), state.nu, state.best_nu)
    return state._replace(
        best_nu=best_nu,
        best_losses=jnp.where(better, loss, state.best_losses),
        best_mean=jnp.where(better, mean, state.best_mean),
    )
