"""Auto-PGD (Croce & Hein, 2020): projected gradient ascent without a step size to tune.

A step goes from the current point to ``z = P(x + eta * steepest_ascent(gradient))`` and
keeps some of the last step (Eq. (4) of that paper)::

    x_next = P(x + 0.75 * (z - x) + 0.25 * (x - x_previous))

The step size starts at twice epsilon. At a few checkpoints, ever closer to each other, it
is halved for the examples whose loss rose in fewer than 75% of the steps since the
checkpoint before, or whose best loss and step size have not changed since then; these
examples go on from their best point.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from rfm import loops, losses
from rfm.attacks._common import (
    AttackResult,
    as_column,
    better,
    bind_targets,
    check_inputs,
    check_targets,
    finite,
    fold,
    per_row,
    to_boundary,
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

_MOMENTUM = 0.75  # alpha: the share of the new step
_RHO = 0.75  # share of rising steps below which the step size is halved


def checkpoints(steps: int) -> tuple[int, ...]:
    """Steps after which the step size may be halved, ascending, all at most `steps`.

    ``ceil(p_j * steps)`` with p_0 = 0, p_1 = 0.22 and ``p_{j+1} = p_j + max(p_j - p_{j-1}
    - 0.03, 0.06)`` (Section 3.1 of Croce & Hein, 2020): of 100 steps after 22, 41, 57, 70,
    80, 87, 93 and 99.
    """
    found: list[int] = []
    # In hundredths: the published numbers are decimal, and binary ones would round up.
    before, now = 0, 22
    while now <= 100:
        found.append(math.ceil(now * steps / 100))
        before, now = now, now + max(now - before - 3, 6)
    return tuple(sorted(set(found)))


@dataclasses.dataclass(frozen=True)
class APGD:
    """Settings of the attack; call it on a model.

    Attributes:
      threat: the ball, see `rfm.threat`.
      steps: gradient steps per restart (100 in AutoAttack).
      restarts: random starts.
      loss: what is ascended: a function of logits and labels, or of logits, labels and
        targets if the attack is called with targets.
      draws: gradients of a random model that are averaged for each step (expectation
        over transformations); then the model is called with a key, ``logits_fn(x, key)``.
        0: the model takes no key.
      compiled: put the loop into one compiled program; None: where that is fast, see
        `rfm.loops`.

    Raises:
      ValueError: a count is not positive.
    """

    threat: Threat
    steps: int = 100
    restarts: int = 1
    loss: Callable[..., PerExample] = losses.cross_entropy
    draws: int = 0
    compiled: bool | None = dataclasses.field(default=None, metadata={"protocol": False})

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.draws < 0:
            raise ValueError("APGD needs steps >= 1, restarts >= 1 and draws >= 0")

    def __call__(
        self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys, targets: Targets | None = None
    ) -> AttackResult:
        """Attacks `logits_fn` at inputs `x` (n, h, w, c) in [0, 1] with labels `y` (n,).

        Args:
          logits_fn: the model, evaluation mode; ideally a ``jax.tree_util.Partial``.
          x: inputs, floating point, channels last.
          y: labels, integers.
          key: one key, or one per example.
          targets: what the loss takes beside the labels: the class that each example is
            pushed to, shape (n,), or the logits that it is moved away from, (n, k).

        Returns:
          An `AttackResult`. Its inputs are the misclassified iterates of highest loss
          and, where there are none, the iterates of highest loss.

        Raises:
          ValueError: shapes do not fit, or `x` is not floating point.
        """
        check_inputs(x, y)
        check_targets(self.loss, targets, x.shape[0])
        logits_fn, keys = as_partial(logits_fn), example_keys(key, x.shape[0])
        compiled = self.compiled
        if compiled is None:
            one = jax.tree_util.Partial(_with_key, logits_fn, keys[0]) if self.draws else logits_fn
            compiled = loops.runs_fast_in_loops(one, x)
        run = _run_compiled if compiled else _run
        found = (
            run(self, logits_fn, x, y, keys, targets, restart, compiled)
            for restart in range(self.restarts)
        )
        return functools.reduce(better, found)


def apgd(logits_fn: LogitsFn, x: Images, y: Labels, key: Keys, **settings: Any) -> AttackResult:
    """``APGD(**settings)(logits_fn, x, y, key)``; see `APGD`."""
    targets = settings.pop("targets", None)
    return APGD(**settings)(logits_fn, x, y, key, targets)


class _State(NamedTuple):
    """All per example; `best` is of the loss alone, `found` is what is returned."""

    x: Images
    previous: Images
    gradient: Images
    loss: PerExample
    best: Images
    best_gradient: Images
    best_loss: PerExample
    step_size: PerExample
    rises: Int[Array, " n"]
    was_halved: Bool[Array, " n"]
    loss_at_checkpoint: PerExample
    found: AttackResult


def _run(
    attack: APGD,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    keys: Key[Array, " n"],
    targets: Targets | None,
    restart: int,
    compiled: bool,
) -> AttackResult:
    """One random start per example."""
    state = _start(attack, logits_fn, x, y, fold(keys, restart), targets)
    marks = checkpoints(attack.steps)
    # How long the interval is that ends after each step; 0 where none does.
    intervals = [0] * attack.steps
    for before, mark in zip((0, *marks), marks, strict=False):
        intervals[mark - 1] = mark - before
    lengths = jnp.asarray(intervals, jnp.int32)

    def step(carry: tuple[_State, Int[Array, ""]]) -> tuple[_State, Int[Array, ""]]:
        state, i = carry
        return _step(attack, logits_fn, x, y, fold(keys, restart), targets, lengths, state, i)

    state, _ = loops.repeat(step, attack.steps, (state, jnp.int32(0)), compiled=compiled)
    return state.found


_run_compiled = jax.jit(_run, static_argnums=(0, 7))


@functools.partial(jax.jit, static_argnums=0)
def _start(
    attack: APGD,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    keys: Key[Array, " n"],
    targets: Targets | None,
) -> _State:
    """On the boundary of the ball, in a random direction."""
    drawn = per_row(attack.threat.sample, fold(keys, 0), x.shape).astype(x.dtype)
    point = jnp.clip(x + to_boundary(attack.threat, drawn), 0.0, 1.0)
    gradient, loss, wrong = _evaluate(attack, logits_fn, point, y, fold(keys, 1), targets)
    n = x.shape[0]
    return _State(
        x=point,
        previous=point,
        gradient=gradient,
        loss=loss,
        best=point,
        best_gradient=gradient,
        best_loss=loss,
        step_size=jnp.full(n, 2 * attack.threat.epsilon, x.dtype),
        rises=jnp.zeros(n, jnp.int32),
        was_halved=jnp.ones(n, bool),  # at the first checkpoint only the rises count
        loss_at_checkpoint=loss,
        found=AttackResult(point, loss, wrong),
    )


@functools.partial(jax.jit, static_argnums=0)
def _step(
    attack: APGD,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    keys: Key[Array, " n"],
    targets: Targets | None,
    lengths: Int[Array, " steps"],
    state: _State,
    i: Int[Array, ""],
) -> tuple[_State, Int[Array, ""]]:
    point = _move(attack, x, state, i)
    gradient, loss, wrong = _evaluate(attack, logits_fn, point, y, fold(keys, i + 2), targets)
    higher = loss > state.best_loss
    state = state._replace(
        x=point,
        previous=state.x,
        gradient=gradient,
        loss=loss,
        rises=state.rises + (loss > state.loss),
        best=where_rows(higher, point, state.best),
        best_gradient=where_rows(higher, gradient, state.best_gradient),
        best_loss=jnp.where(higher, loss, state.best_loss),
        found=better(state.found, AttackResult(point, loss, wrong)),
    )
    halved = _adapt(state, lengths[i])
    return jax.tree.map(functools.partial(jnp.where, lengths[i] > 0), halved, state), i + 1


def _move(attack: APGD, x: Images, state: _State, i: Int[Array, ""]) -> Images:
    def project(point: Images) -> Images:
        return jnp.clip(x + attack.threat.project(point - x), 0.0, 1.0)

    size = as_column(state.step_size, x)
    ahead = project(state.x + size * attack.threat.steepest_ascent(state.gradient))
    share = jnp.where(i == 0, 1.0, _MOMENTUM).astype(x.dtype)
    return project(state.x + share * (ahead - state.x) + (1 - share) * (state.x - state.previous))


def _adapt(state: _State, length: Int[Array, ""]) -> _State:
    """What happens at a checkpoint, `length` steps after the one before.

    As in the authors' code, the next loss is compared with that of the point left behind.
    """
    seldom_rose = state.rises < _RHO * length
    no_progress = ~state.was_halved & (state.loss_at_checkpoint >= state.best_loss)
    halve = seldom_rose | no_progress
    return state._replace(
        x=where_rows(halve, state.best, state.x),
        gradient=where_rows(halve, state.best_gradient, state.gradient),
        step_size=jnp.where(halve, state.step_size / 2, state.step_size),
        rises=jnp.zeros_like(state.rises),
        was_halved=halve,
        loss_at_checkpoint=state.best_loss,
    )


def _evaluate(
    attack: APGD,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    keys: Key[Array, " n"],
    targets: Targets | None,
) -> tuple[Images, PerExample, Bool[Array, " n"]]:
    """Gradient, loss and whether it is misclassified; means over draws of a random model."""
    loss_fn = bind_targets(attack.loss, targets)

    def total(x: Images, *key: Array) -> tuple[Array, tuple[PerExample, Float[Array, "n k"]]]:
        logits = logits_fn(x, *key)
        loss = loss_fn(logits, y)
        return loss.sum(), (loss, logits)

    gradient_of = jax.grad(total, has_aux=True)
    if not attack.draws:
        gradient, (loss, logits) = gradient_of(x)
    else:
        # A random model draws for the whole batch from one key.
        each = jax.random.split(keys[0], attack.draws)
        # Side by side: with their keys, calls may differ in anything but their weights.
        found = jax.vmap(lambda key: gradient_of(x, key))(each)
        gradient, (loss, logits) = jax.tree.map(lambda v: v.mean(0), found)
    loss = jnp.where(jnp.isnan(loss), jnp.inf, loss)
    return finite(gradient), loss, losses.is_misclassified(logits, y)


def _with_key(logits_fn: LogitsFn, key: Key[Array, ""], x: Images) -> Float[Array, "n k"]:
    logits: Array = logits_fn(x, key)  # type: ignore[call-arg]
    return logits
