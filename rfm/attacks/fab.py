"""Fast adaptive boundary attack (FAB, Croce & Hein, 2020b): the nearest adversarial input.

Each step linearises the decision boundary at the current point and projects both this
point and the original input onto it, within the box; the next point lies between the two
projections, slightly beyond the boundary, drawn towards the original input::

    x_next = clip((1 - alpha) * (x + eta * d) + alpha * (x_0 + eta * d_0))
    alpha = min(||d|| / (||d|| + ||d_0||), 0.1)

A misclassified point is remembered if it is the nearest so far, and the search goes on
from a point a tenth closer to the original input. The attack needs no epsilon to find
points; epsilon says which of them count.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rfm import loops, losses
from rfm.attacks import hyperplane
from rfm.attacks._common import (
    AttackResult,
    as_column,
    check_inputs,
    check_labels,
    finite,
    fold,
    per_row,
    to_boundary,
    where_rows,
)
from rfm.threat import L2, Linf
from rfm.types import (
    Images,
    Keys,
    Labels,
    LogitsFn,
    PerExample,
    Threat,
    as_partial,
    example_keys,
)


class Minimal(NamedTuple):
    """The nearest misclassified inputs found.

    Attributes:
      x: shape (n, h, w, c), in [0, 1]; the input itself where none was found.
      norm: distance from the input, shape (n,); infinite where none was found.
    """

    x: Images
    norm: PerExample


@dataclasses.dataclass(frozen=True)
class FAB:
    """Settings of the attack; call it on a model.

    Attributes:
      threat: L-infinity or L2, see `rfm.threat`: the norm, and up to where points count.
      steps: steps per restart (100 in AutoAttack).
      restarts: the first begins at the input, the others at random, epsilon / 2 away.
      random_start: begin the first at random, too.
      alpha_max: the largest share of the original input's projection.
      overshoot: eta, how far beyond the boundary steps go.
      backward: beta, what is kept of the distance after a misclassified point.
      compiled: put the loop into one compiled program; None: where that is fast, see
        `rfm.loops`.

    Raises:
      ValueError: a count is not positive.
    """

    threat: Threat
    steps: int = 100
    restarts: int = 1
    random_start: bool = False
    alpha_max: float = 0.1
    overshoot: float = 1.05
    backward: float = 0.9
    compiled: bool | None = dataclasses.field(default=None, metadata={"protocol": False})

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError("FAB needs steps >= 1 and restarts >= 1")
        if not isinstance(self.threat, Linf | L2):
            raise ValueError(f"FAB knows L-infinity and L2 balls, got {self.threat!r}")

    def __call__(
        self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys, targets: Labels | None = None
    ) -> AttackResult:
        """Attacks `logits_fn` at inputs `x` (n, h, w, c) in [0, 1] with labels `y` (n,).

        Args:
          logits_fn: the model, evaluation mode; ideally a ``jax.tree_util.Partial``.
          x: inputs, floating point, channels last.
          y: labels, integers.
          key: one key, or one per example.
          targets: classes whose boundary is approached (FAB-T); None: that of the class
            that seems nearest, which costs a gradient per class.

        Returns:
          An `AttackResult`: the nearest misclassified inputs where they are in the ball,
          elsewhere the inputs themselves, and the margin there.

        Raises:
          ValueError: shapes do not fit, or `x` is not floating point.
        """
        found = self.minimal(logits_fn, x, y, key, targets)
        return _finish(self, as_partial(logits_fn), x, y, found)

    def minimal(
        self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys, targets: Labels | None = None
    ) -> Minimal:
        """The nearest misclassified inputs, in the ball or not; arguments as above."""
        check_inputs(x, y)
        if targets is not None:
            check_labels("targets", targets, x.shape[0])
        logits_fn, keys = as_partial(logits_fn), example_keys(key, x.shape[0])
        compiled = self.compiled
        if compiled is None:
            compiled = loops.runs_fast_in_loops(logits_fn, x)
        run = _run_compiled if compiled else _run
        found = (
            run(self, logits_fn, x, y, keys, targets, restart, compiled)
            for restart in range(self.restarts)
        )
        return functools.reduce(_nearer, found)


def fab(logits_fn: LogitsFn, x: Images, y: Labels, key: Keys, **settings: Any) -> AttackResult:
    """``FAB(**settings)(logits_fn, x, y, key)``; see `FAB`."""
    targets = settings.pop("targets", None)
    return FAB(**settings)(logits_fn, x, y, key, targets)


def _run(
    attack: FAB,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    keys: Key[Array, " n"],
    targets: Labels | None,
    restart: int,
    compiled: bool,
) -> Minimal:
    state = _start(attack, logits_fn, x, y, fold(keys, restart), restart)

    def step(state: tuple[Images, Minimal]) -> tuple[Images, Minimal]:
        return _step(attack, logits_fn, x, y, targets, *state)

    return loops.repeat(step, attack.steps, state, compiled=compiled)[1]


_run_compiled = jax.jit(_run, static_argnums=(0, 7))


@functools.partial(jax.jit, static_argnums=0)
def _start(
    attack: FAB,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    keys: Key[Array, " n"],
    restart: int,
) -> tuple[Images, Minimal]:
    drawn = per_row(attack.threat.sample, keys, x.shape).astype(x.dtype)
    at_random = attack.random_start | (jnp.asarray(restart) > 0)
    away = jnp.where(at_random, 0.5, 0.0).astype(x.dtype)
    start = jnp.clip(x + away * to_boundary(attack.threat, drawn), 0.0, 1.0)
    wrong = losses.is_misclassified(logits_fn(x), y)
    return start, Minimal(x, jnp.where(wrong, 0.0, jnp.inf).astype(x.dtype))


@functools.partial(jax.jit, static_argnums=0)
def _step(
    attack: FAB,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    targets: Labels | None,
    point: Images,
    found: Minimal,
) -> tuple[Images, Minimal]:
    threat, n = attack.threat, x.shape[0]
    f, w = _boundary(attack, logits_fn, point, y, targets)
    # The linear function is to rise by -f from the point, and from x by what differs.
    from_x = -f + jnp.sum((w * (point - x)).reshape(n, -1), axis=1)
    steps = hyperplane.project(
        threat,
        jnp.concatenate([point, x]),
        jnp.concatenate([w, w]),
        jnp.concatenate([-f, from_x]),
    )
    lengths = jnp.maximum(threat.norm(steps), 1e-8)
    alpha = jnp.minimum(lengths[:n] / (lengths[:n] + lengths[n:]), attack.alpha_max)
    alpha = as_column(alpha, x)
    ahead, from_start = point + attack.overshoot * steps[:n], x + attack.overshoot * steps[n:]
    point = jnp.clip((1 - alpha) * ahead + alpha * from_start, 0.0, 1.0)
    wrong = losses.is_misclassified(logits_fn(point), y)
    norm = jnp.where(wrong, threat.norm(point - x), jnp.inf)
    found = _nearer(found, Minimal(point, norm))
    return where_rows(wrong, x + attack.backward * (point - x), point), found


def _boundary(
    attack: FAB, logits_fn: LogitsFn, x: Images, y: Labels, targets: Labels | None
) -> tuple[PerExample, Images]:
    """``f = z_t - z_y`` and its gradient, t the target or the class that seems nearest."""
    if targets is not None:

        def rise(x: Images) -> tuple[Array, PerExample]:
            f = losses.targeted_margin(logits_fn(x), y, targets)
            return f.sum(), f

        w, f = jax.grad(rise, has_aux=True)(x)
        return f, finite(w)

    def rises(x: Images) -> Float[Array, "n k"]:
        logits = logits_fn(x)
        return logits - jnp.take_along_axis(logits, y[:, None], axis=1)

    f, pull_back = jax.vjp(rises, x)
    classes = jnp.eye(f.shape[1], dtype=f.dtype)
    w = jax.vmap(lambda one: pull_back(jnp.broadcast_to(one, f.shape))[0])(classes)
    w = finite(w)
    steep = jax.vmap(attack.threat.steepest_ascent)(w)
    dual = jnp.sum((w * steep).reshape(*w.shape[:2], -1), axis=-1).T
    distance = jnp.abs(f) / (1e-12 + dual)
    true = jax.nn.one_hot(y, f.shape[1], dtype=bool)
    nearest = jnp.argmin(jnp.where(true, jnp.inf, distance), axis=1)
    rows = jnp.arange(x.shape[0])
    return f[rows, nearest], w[nearest, rows]


def _nearer(a: Minimal, b: Minimal) -> Minimal:
    nearer = b.norm < a.norm
    return Minimal(where_rows(nearer, b.x, a.x), jnp.where(nearer, b.norm, a.norm))


@functools.partial(jax.jit, static_argnums=0)
def _finish(attack: FAB, logits_fn: LogitsFn, x: Images, y: Labels, found: Minimal) -> AttackResult:
    inside = found.norm <= attack.threat.epsilon
    x = where_rows(inside, found.x, x)
    logits = logits_fn(x)
    return AttackResult(x, losses.margin(logits, y), inside & losses.is_misclassified(logits, y))
