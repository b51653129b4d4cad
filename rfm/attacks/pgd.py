"""Projected gradient descent (Madry et al., 2018), the attack of the paper.

From a random point of the ball, each step goes up the loss and comes back::

    delta <- project(delta + step_size * steepest_ascent(grad_x loss(f(x + delta), y)))

with the sign of the gradient as steepest ascent for L-infinity; after each step
x + delta is clipped to [0, 1]. Of all iterates, the random start and the last one
included, and of all restarts, the one of highest loss counts (Section F of the
supplement: "the worst-case adversarial example per test example"). Whether *any*
iterate is misclassified is tracked apart: the example of highest loss may be classified
correctly while another was not.

Restarts are part of the batch, so that ten of them cost one pass of ten times the
batch. Weights are never differentiated.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from rfm import loops, losses
from rfm.attacks._common import (
    AttackResult,
    bind_targets,
    check_inputs,
    check_targets,
    finite,
    into_box,
    per_row,
    where_rows,
)
from rfm.types import (
    Images,
    Keys,
    Labels,
    LogitsFn,
    PerExample,
    Targets,
    Threat,
    as_partial,
    example_keys,
)

_Classes = tuple[Labels, Targets | None]  # labels, and targets if there are any


class _State(NamedTuple):
    delta: Images
    velocity: Images
    best_delta: Images
    best_loss: PerExample
    success: Bool[Array, " n"]
    left: Int[Array, " n"]  # steps that PGD-tau still makes


@dataclasses.dataclass(frozen=True)
class PGD:
    """Settings of the attack; call it on a model.

    Attributes:
      threat: the ball, see `rfm.threat`.
      steps: gradient steps per restart (20 for evaluation, 7 for training).
      step_size: length of a step, in the unit of the inputs (0.007).
      restarts: random starts; the worst one counts for each example.
      momentum: weight of the past in the averaged gradient ``m <- momentum * m +
        (1 - momentum) * gradient / ||gradient||_1``; 0, as in the paper, is plain PGD.
      loss: what is ascended, a function of logits and labels per example, or of logits,
        labels and targets if the attack is called with targets.
      random_start: start from a random point of the ball, else from the input.
      stop_after: PGD-tau (Zhang et al., 2020, "friendly" adversarial training): an example
        makes so many more steps after it is first misclassified, and the point where it
        stops is returned, not the one of highest loss. None: all steps.
      misclassified_first: return the misclassified iterate of highest loss where there is
        one, as ensembles want it.
      chunk: how many examples times restarts go through the model at once; limits
        memory, changes no result but rounding. None: all.
      compiled: put the loop into one compiled program; None: where that is fast, see
        `rfm.loops`.

    Raises:
      ValueError: a count is not positive or a size is negative.
    """

    threat: Threat
    steps: int
    step_size: float
    restarts: int = 1
    momentum: float = 0.0
    loss: Callable[..., PerExample] = losses.cross_entropy
    random_start: bool = True
    stop_after: int | None = None
    misclassified_first: bool = False
    chunk: int | None = dataclasses.field(default=None, metadata={"protocol": False})
    compiled: bool | None = dataclasses.field(default=None, metadata={"protocol": False})

    def __post_init__(self) -> None:
        if self.steps < 0 or self.restarts < 1 or (self.chunk is not None and self.chunk < 1):
            raise ValueError("PGD needs steps >= 0, restarts >= 1 and chunk >= 1")
        if not self.step_size >= 0 or not 0 <= self.momentum < 1:
            raise ValueError("PGD needs step_size >= 0 and momentum in [0, 1)")
        if self.stop_after is not None and self.stop_after < 0:
            raise ValueError(f"PGD needs stop_after >= 0, got {self.stop_after}")
        if self.restarts > 1 and not self.random_start:
            raise ValueError("PGD without a random start has nothing to restart: use restarts=1")

    def __call__(
        self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys, targets: Targets | None = None
    ) -> AttackResult:
        """Attacks `logits_fn` at inputs `x` (n, h, w, c) in [0, 1] with labels `y` (n,).

        Args:
          logits_fn: the model, evaluation mode; ideally a ``jax.tree_util.Partial``.
          x: inputs, floating point, channels last.
          y: labels, integers.
          key: one key, or one per example (then the batch an example is in does not
            matter).
          targets: what the loss takes beside the labels: the class that each example is
            pushed to, shape (n,), or the logits that it is moved away from, (n, k).

        Returns:
          An `AttackResult`. A loss that is not a number counts as infinite.

        Raises:
          ValueError: shapes do not fit, or `x` is not floating point.
        """
        check_inputs(x, y)
        check_targets(self.loss, targets, x.shape[0])
        logits_fn = as_partial(logits_fn)
        keys = example_keys(key, x.shape[0])
        compiled = self.compiled
        if compiled is None:
            compiled = loops.runs_fast_in_loops(logits_fn, x)
        run = _run_compiled if compiled else _run
        return run(self, logits_fn, x, (y, targets), keys, compiled)


def pgd(logits_fn: LogitsFn, x: Images, y: Labels, key: Keys, **settings: Any) -> AttackResult:
    """``PGD(**settings)(logits_fn, x, y, key)``; see `PGD` for settings and `PGD.__call__`.

    Example:
      >>> import jax, jax.numpy as jnp, rfm
      >>> logits_fn = lambda x: jnp.stack([0.6 + 0 * x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1)
      >>> x, y, linf = jnp.full((1, 2, 1, 1), 0.5), jnp.array([1]), rfm.threat.linf(0.25)
      >>> settings = {"threat": linf, "steps": 20, "step_size": 0.05, "restarts": 10}
      >>> found = rfm.attacks.pgd(logits_fn, x, y, jax.random.key(0), **settings)
      >>> print(found.x.ravel(), f"{found.loss[0]:.3f}", found.success)
      [0.25 0.25] 0.744 [ True]
    """
    targets = settings.pop("targets", None)
    return PGD(**settings)(logits_fn, x, y, key, targets)


def fgsm(
    logits_fn: LogitsFn, x: Images, y: Labels, key: Keys, *, threat: Threat, **settings: Any
) -> AttackResult:
    """The fast gradient sign method (Goodfellow et al., 2015): one step of size epsilon.

    ``x + epsilon * steepest_ascent(gradient)``, without a random start; `settings` are those
    of `PGD`, and the input itself counts, too, where its loss is higher.
    """
    settings = {"steps": 1, "step_size": threat.epsilon, "random_start": False} | settings
    return pgd(logits_fn, x, y, key, threat=threat, **settings)


def _run(
    attack: PGD,
    logits_fn: LogitsFn,
    x: Images,
    y: _Classes,
    keys: Key[Array, " n"],
    compiled: bool,
) -> AttackResult:
    """All restarts of all examples, in blocks that respect `attack.chunk`.

    Rows of a block are ordered example-major, and blocks of examples are interleaved:
    a batch that is sharded over devices stays sharded the same way throughout.
    """
    examples, limit = x.shape[0], attack.chunk or x.shape[0] * attack.restarts
    blocks = math.ceil(examples / limit)
    if examples % blocks:  # the last example fills up the blocks
        rows = jnp.minimum(jnp.arange(blocks * math.ceil(examples / blocks)), examples - 1)
        x, y, keys = jax.tree.map(lambda v: v[rows], (x, y, keys))
    n = x.shape[0]
    groups = _smallest_divisor(
        attack.restarts, at_least=math.ceil(attack.restarts / max(limit // n, 1))
    )
    per_group = attack.restarts // groups

    def attack_rows(rows: tuple[Images, _Classes, Key[Array, " m"], Array]) -> AttackResult:
        x, y, keys, group = rows
        m = x.shape[0]
        restart = group * per_group + jnp.arange(per_group)
        restart_keys = jax.vmap(
            lambda k: jax.vmap(functools.partial(jax.random.fold_in, k))(restart)
        )(keys)
        x, y = jax.tree.map(lambda v: jnp.repeat(v, per_group, axis=0), (x, y))
        found = _ascend(attack, logits_fn, x, y, restart_keys.reshape(-1), compiled)
        return _worst(attack, jax.tree.map(lambda v: v.reshape(m, per_group, *v.shape[1:]), found))

    def over_groups(block: tuple[Images, _Classes, Key[Array, " m"]]) -> AttackResult:
        if groups == 1:
            return attack_rows((*block, jnp.int32(0)))
        found = loops.map_over(
            lambda group: attack_rows((*block, group)), jnp.arange(groups), compiled=compiled
        )
        return _worst(attack, jax.tree.map(lambda v: jnp.moveaxis(v, 0, 1), found))

    if blocks == 1:
        return over_groups((x, y, keys))
    cut = jax.tree.map(
        lambda v: jnp.moveaxis(v.reshape(n // blocks, blocks, *v.shape[1:]), 1, 0), (x, y, keys)
    )
    found = loops.map_over(over_groups, cut, compiled=compiled)
    return jax.tree.map(lambda v: jnp.moveaxis(v, 0, 1).reshape(n, *v.shape[2:])[:examples], found)


_run_compiled = jax.jit(_run, static_argnums=(0, 5))


def _ascend(
    attack: PGD,
    logits_fn: LogitsFn,
    x: Images,
    y: _Classes,
    keys: Key[Array, " n"],
    compiled: bool,
) -> AttackResult:
    """One random start per row of `x`."""
    state = _start(attack, x, keys)
    state = loops.repeat(
        lambda state: _step(attack, logits_fn, x, y, state), attack.steps, state, compiled=compiled
    )
    return _finish(attack, logits_fn, x, y, state)


@functools.partial(jax.jit, static_argnums=0)
def _start(attack: PGD, x: Images, keys: Key[Array, " n"]) -> _State:
    delta = jnp.zeros_like(x)
    if attack.random_start:
        delta = into_box(x, per_row(attack.threat.sample, keys, x.shape).astype(x.dtype))
    loss_dtype = jnp.promote_types(x.dtype, jnp.float32)
    return _State(
        delta,
        jnp.zeros_like(x),
        delta,
        jnp.full(x.shape[0], -jnp.inf, loss_dtype),
        jnp.zeros(x.shape[0], bool),
        jnp.full(x.shape[0], attack.stop_after or 0, jnp.int32),
    )


@functools.partial(jax.jit, static_argnums=0)
def _step(attack: PGD, logits_fn: LogitsFn, x: Images, y: _Classes, state: _State) -> _State:
    def total(delta: Images) -> tuple[Array, tuple[PerExample, Array]]:
        loss, wrong = _judge(attack, logits_fn(x + delta), y)
        return loss.sum(), (loss, wrong)

    gradient, (loss, wrong) = jax.grad(total, has_aux=True)(state.delta)
    gradient = finite(gradient)
    state = _keep(attack, state, loss, wrong)
    velocity = gradient
    if attack.momentum:
        size = jnp.sum(jnp.abs(gradient), axis=tuple(range(1, gradient.ndim)), keepdims=True)
        unit = gradient / jnp.where(size > 0, size, 1.0)
        velocity = attack.momentum * state.velocity + (1 - attack.momentum) * unit
    delta = state.delta + attack.step_size * attack.threat.steepest_ascent(velocity)
    delta, left = into_box(x, attack.threat.project(delta)), state.left
    if attack.stop_after is not None:
        delta = where_rows(state.success & (left == 0), state.delta, delta)
        left = jnp.where(state.success, jnp.maximum(left - 1, 0), left)
    return state._replace(
        delta=delta, left=left, velocity=velocity if attack.momentum else state.velocity
    )


@functools.partial(jax.jit, static_argnums=0)
def _finish(
    attack: PGD, logits_fn: LogitsFn, x: Images, y: _Classes, state: _State
) -> AttackResult:
    state = _keep(attack, state, *_judge(attack, logits_fn(x + state.delta), y))
    x = jnp.clip(x + state.best_delta, 0.0, 1.0)
    return AttackResult(x, state.best_loss, state.success)


def _judge(attack: PGD, logits: Array, y: _Classes) -> tuple[PerExample, Bool[Array, " n"]]:
    """The loss, and is it misclassified?"""
    labels, targets = y
    loss: PerExample = bind_targets(attack.loss, targets)(logits, labels)
    return loss, losses.is_misclassified(logits, labels)


def _keep(attack: PGD, state: _State, loss: PerExample, wrong: Bool[Array, " n"]) -> _State:
    """The point of highest loss so far; of PGD-tau the present one."""
    loss = jnp.where(jnp.isnan(loss), jnp.inf, loss).astype(state.best_loss.dtype)
    better = loss > state.best_loss
    if attack.misclassified_first:
        better = jnp.where(wrong == state.success, better, wrong)
    if attack.stop_after is not None:
        better = jnp.ones_like(better)
    return state._replace(
        best_delta=where_rows(better, state.delta, state.best_delta),
        best_loss=jnp.where(better, loss, state.best_loss),
        success=state.success | wrong,
    )


def _worst(attack: PGD, found: AttackResult) -> AttackResult:
    """The restart (second axis) of highest loss; success of any."""
    success, loss = found.success.any(axis=1), found.loss
    if attack.misclassified_first:
        loss = jnp.where(success[:, None] & ~found.success, -jnp.inf, loss)
    worst = jnp.argmax(loss, axis=1)

    def pick(v: Array) -> Array:
        index = worst.reshape(-1, *[1] * (v.ndim - 1))
        return jnp.take_along_axis(v, index, axis=1)[:, 0]

    return AttackResult(pick(found.x), pick(found.loss), success)


def _smallest_divisor(n: int, *, at_least: int) -> int:
    return next(d for d in range(at_least, n + 1) if n % d == 0)
