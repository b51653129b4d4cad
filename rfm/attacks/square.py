"""Square attack (Andriushchenko et al., 2020): random search with squares, no gradients.

Each query changes the perturbation inside a random square, always to the full size of the
ball, and keeps the change if the loss rises. Squares become smaller along a published
schedule. An example that is misclassified is left alone from then on.

What a change looks like depends on the ball: in L-infinity each channel of the square
becomes plus or minus epsilon; in L2 a pair of bumps of opposite sign is added to one
window, paid for with the norm of another.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from rfm import loops, losses
from rfm.attacks._bumps import pair_of_bumps, tiles
from rfm.attacks._common import (
    AttackResult,
    better,
    check_inputs,
    fold,
    to_boundary,
    where_rows,
)
from rfm.threat import L2, Linf
from rfm.types import (
    Images,
    Keys,
    Labels,
    LogitsFn,
    LossFn,
    Threat,
    as_partial,
    example_keys,
)

# Queries of 10,000 after which the share of changed pixels is halved once more (Section 3.2
# of the paper and the authors' code).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_FULL_BUDGET = 10_000


def share_of_pixels(query: int, queries: int, *, initial: float, rescale: bool) -> float:
    """The published schedule for p, the share of pixels that a query changes.

    Args:
      query: from 0 on.
      queries: the budget.
      initial: p at the beginning.
      rescale: stretch the schedule, which is for 10,000 queries, over the budget.
    """
    if rescale:
        query = query * _FULL_BUDGET // queries
    return initial / 2 ** sum(query > after for after in _HALVINGS)


@dataclasses.dataclass(frozen=True)
class Square:
    """Settings of the attack; call it on a model.

    Attributes:
      threat: L-infinity or L2, see `rfm.threat`.
      queries: random changes tried, per restart (5000 in AutoAttack).
      restarts: random starts.
      initial_share: p at the beginning (0.8 in AutoAttack).
      rescale: stretch the schedule of p over the budget; AutoAttack does not.
      loss: what is to rise, a function of logits and labels per example.
      compiled: put the loop into one compiled program; None: where that is fast, see
        `rfm.loops`.

    Raises:
      ValueError: a count is not positive, the share is not in (0, 1], or the ball is
        another one.
    """

    threat: Threat
    queries: int = 5000
    restarts: int = 1
    initial_share: float = 0.8
    rescale: bool = False
    loss: LossFn = losses.margin
    compiled: bool | None = dataclasses.field(default=None, metadata={"protocol": False})

    def __post_init__(self) -> None:
        if self.queries < 1 or self.restarts < 1 or not 0 < self.initial_share <= 1:
            raise ValueError("Square needs queries and restarts >= 1, initial_share in (0, 1]")
        if not isinstance(self.threat, Linf | L2):
            raise ValueError(f"Square knows L-infinity and L2 balls, got {self.threat!r}")

    def __call__(self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys) -> AttackResult:
        """Attacks `logits_fn` at inputs `x` (n, h, w, c) in [0, 1] with labels `y` (n,).

        Args:
          logits_fn: the model, evaluation mode; ideally a ``jax.tree_util.Partial``.
          x: images, floating point, channels last.
          y: labels, integers.
          key: one key, or one per example.

        Returns:
          An `AttackResult`: the first misclassified inputs found, or those of highest loss.

        Raises:
          ValueError: shapes do not fit, or `x` is not floating point.
        """
        check_inputs(x, y)
        if x.ndim != 4:
            raise ValueError(f"Square needs images, shape (n, h, w, c); got {x.shape}")
        logits_fn, keys = as_partial(logits_fn), example_keys(key, x.shape[0])
        compiled = self.compiled
        if compiled is None:
            compiled = loops.runs_fast_in_loops(logits_fn, x, gradient=False)
        run = _run_compiled if compiled else _run
        found = (
            run(self, logits_fn, x, y, fold(keys, restart), compiled)
            for restart in range(self.restarts)
        )
        return functools.reduce(better, found)


def square(logits_fn: LogitsFn, x: Images, y: Labels, key: Keys, **settings: Any) -> AttackResult:
    """``Square(**settings)(logits_fn, x, y, key)``; see `Square`."""
    return Square(**settings)(logits_fn, x, y, key)


class _State(NamedTuple):
    found: AttackResult
    query: Int[Array, ""]


class _Schedule(NamedTuple):
    """Side of the square at each query, and the pairs of bumps (L2) by size."""

    sides: Int[Array, " queries"]
    sizes: Int[Array, " queries"]
    bumps: Float[Array, "sizes s s"]


def _run(
    attack: Square,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    keys: Key[Array, " n"],
    compiled: bool,
) -> AttackResult:
    schedule = _schedule(attack, x.shape[1], x.shape[2])
    state = _start(attack, logits_fn, x, y, keys)
    state = loops.repeat(
        lambda state: _step(attack, logits_fn, x, y, keys, schedule, state),
        attack.queries,
        state,
        compiled=compiled,
        done=lambda state: state.found.success.all(),
    )
    return state.found


_run_compiled = jax.jit(_run, static_argnums=(0, 5))


def _schedule(attack: Square, height: int, width: int) -> _Schedule:
    """Computed on the host: a few numbers per query."""
    smallest = 3 if isinstance(attack.threat, L2) else 1
    largest = min(height, width)
    sides = []
    for query in range(attack.queries):
        share = share_of_pixels(
            query, attack.queries, initial=attack.initial_share, rescale=attack.rescale
        )
        side = max(round(math.sqrt(share * height * width)), smallest)
        if isinstance(attack.threat, L2):
            side += side % 2 == 0  # bumps have a middle
        sides.append(min(side, largest))
    sizes, inverse = np.unique(sides, return_inverse=True)
    bumps = np.zeros((len(sizes), largest, largest), np.float32)
    for row, size in zip(bumps, sizes, strict=True):
        row[:size, :size] = pair_of_bumps(int(size))
    return _Schedule(
        jnp.asarray(sides, jnp.int32), jnp.asarray(inverse, jnp.int32), jnp.asarray(bumps)
    )


@functools.partial(jax.jit, static_argnums=0)
def _start(
    attack: Square, logits_fn: LogitsFn, x: Images, y: Labels, keys: Key[Array, " n"]
) -> _State:
    if isinstance(attack.threat, Linf):
        # Vertical stripes.
        stripes = (1, x.shape[2], x.shape[3])
        signs = jax.vmap(lambda key: jax.random.rademacher(key, stripes, x.dtype))(fold(keys, 0))
        delta = jnp.broadcast_to(attack.threat.epsilon * signs, x.shape)
    else:
        drawn = jax.vmap(functools.partial(tiles, shape=x.shape[1:]))(fold(keys, 0))
        delta = to_boundary(attack.threat, drawn.astype(x.dtype))
    point = jnp.clip(x + delta, 0.0, 1.0)
    logits = logits_fn(point)
    wrong = losses.is_misclassified(logits, y)
    return _State(AttackResult(point, attack.loss(logits, y), wrong), jnp.int32(0))


@functools.partial(jax.jit, static_argnums=0)
def _step(
    attack: Square,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    keys: Key[Array, " n"],
    schedule: _Schedule,
    state: _State,
) -> _State:
    found, query = state
    of_query = fold(keys, query + 1)
    side = schedule.sides[query]
    if isinstance(attack.threat, Linf):
        delta = jax.vmap(lambda key, delta: _change_linf(key, delta, side, attack.threat.epsilon))(
            of_query, found.x - x
        )
        delta = attack.threat.project(delta)
    else:
        bump = schedule.bumps[schedule.sizes[query]]
        delta = jax.vmap(
            lambda key, delta: _change_l2(key, delta, side, bump, attack.threat.epsilon)
        )(of_query, found.x - x)
        delta = to_boundary(attack.threat, delta)
    point = jnp.clip(x + delta, 0.0, 1.0)
    logits = logits_fn(point)
    loss, wrong = attack.loss(logits, y), losses.is_misclassified(logits, y)
    take = ~found.success & ((loss > found.loss) | wrong)
    found = AttackResult(
        where_rows(take, point, found.x),
        jnp.where(take, loss, found.loss),
        found.success | wrong & take,
    )
    return _State(found, query + 1)


def _change_linf(
    key: Key[Array, ""], delta: Float[Array, "h w c"], side: Array, epsilon: float
) -> Float[Array, "h w c"]:
    """Plus or minus twice epsilon per channel inside a square; to be projected."""
    place, signs = jax.random.split(key)
    inside, _, _ = _window(place, delta.shape, side)
    change = 2 * epsilon * jax.random.rademacher(signs, delta.shape[-1:], delta.dtype)
    return delta + jnp.where(inside[..., None], change, 0.0)


def _change_l2(
    key: Key[Array, ""],
    delta: Float[Array, "h w c"],
    side: Array,
    bump: Float[Array, "s s"],
    epsilon: float,
) -> Float[Array, "h w c"]:
    """A pair of bumps is added in one window; another one is emptied for it.

    The norm of both windows, and an equal share of what the ball leaves unused, goes into
    the first one, channel by channel.
    """
    place, other, signs, turn = jax.random.split(key, 4)
    inside, rows, columns = _window(place, delta.shape, side)
    emptied, _, _ = _window(other, delta.shape, side)
    turned = jnp.where(jax.random.bernoulli(turn), bump.T, bump)
    last = bump.shape[0] - 1
    pattern = turned[jnp.clip(rows, 0, last)[:, None], jnp.clip(columns, 0, last)[None]]
    sign = jax.random.rademacher(signs, delta.shape[-1:], delta.dtype)
    within, either = inside[..., None], (inside | emptied)[..., None]
    old = jnp.where(within, delta, 0.0)
    new = jnp.where(within, pattern[..., None] * sign, 0.0) + _unit(old)
    unused = jnp.maximum(epsilon**2 - jnp.sum(delta**2), 0.0)
    budget = unused / delta.shape[-1] + jnp.sum(jnp.where(either, delta, 0.0) ** 2, axis=(0, 1))
    kept = jnp.where(either, 0.0, delta)
    return kept + _unit(new) * jnp.sqrt(budget)


def _unit(delta: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    return delta / (1e-12 + jnp.sqrt(jnp.sum(delta**2, axis=(0, 1))))


def _window(
    key: Key[Array, ""], shape: tuple[int, ...], side: Array
) -> tuple[Bool[Array, "h w"], Int[Array, " h"], Int[Array, " w"]]:
    """A random square as a mask, and rows and columns counted from its corner."""
    row_key, column_key = jax.random.split(key)
    rows = jnp.arange(shape[0]) - jax.random.randint(row_key, (), 0, shape[0] - side + 1)
    columns = jnp.arange(shape[1]) - jax.random.randint(column_key, (), 0, shape[1] - side + 1)
    inside = ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))[None]
    return inside, rows, columns
