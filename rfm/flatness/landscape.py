"""The loss along directions in weight space (Section C of the supplement).

::

    l(t) = max_{||delta|| <= eps} L(f(x + delta; w + t * d), y),  t in [-1, 1]

for a direction d, or over a plane for two of them. The length of a direction says where the
picture ends: the paper normalises per layer (Eq. (2)) or per filter (Eq. (1)) and takes 0.5
of the weights' norm for random directions and 0.025 for adversarial ones. Directions come
from `RelativeBall.random_direction`, from `adversarial_directions`, or, as eigenvectors of the
Hessian, from `rfm.flatness.extreme_eigenvalues` through `RelativeBall.direction`::

    ball = rfm.perturb.RelativeBall(radius=0.5)
    direction = ball.random_direction(key, params)
    path = rfm.flatness.landscape(apply_fn, params, direction, x, y, key, attack=pgd_20)
    path.steps, path.mean, path.length
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from rfm.attacks import PGD
from rfm.batching import batches
from rfm.flatness._pieces import results
from rfm.flatness.reference import may_compile, perturbed_loss
from rfm.types import (
    ApplyFn,
    Images,
    Keys,
    Labels,
    Params,
    PerExample,
    as_partial,
    bind,
    example_keys,
)

STEPS = np.linspace(-1, 1, 51)
"""The paper's 51 steps; the middle one is 0, the weights themselves."""

SURFACE_STEPS = np.linspace(-1, 1, 21)


@dataclasses.dataclass(frozen=True, eq=False)
class Landscape:
    """Losses along a direction, or over a plane.

    Attributes:
      steps: t, shape (m,); of a plane the same on both axes.
      losses: per-example losses, shape (m, n), or (m, m, n) with the first direction
        first; float64.
      lengths: L2 norm of each direction, over all weights that it moves.
    """

    steps: Float[np.ndarray, " m"]
    losses: Float[np.ndarray, "*steps n"]
    lengths: tuple[float, ...]

    @property
    def mean(self) -> np.ndarray:
        """Mean loss at each step, shape (m,) or (m, m)."""
        found: np.ndarray = self.losses.mean(-1)
        return found

    @property
    def length(self) -> float:
        """L2 norm of the (first) direction: the weights move so far at step 1."""
        return self.lengths[0]


def landscape(
    apply_fn: ApplyFn,
    params: Params,
    direction: Params,
    x: Images | np.ndarray,
    y: Labels | np.ndarray,
    key: Keys,
    *,
    attack: PGD | None,
    steps: Sequence[float] | np.ndarray = STEPS,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    on_step: Callable[[int], None] = lambda done: None,
) -> Landscape:
    """The (robust) loss along one direction.

    The paper: 128 test examples, 51 steps in [-1, 1], PGD; the mean over 10 random
    directions and the maximum over 10 adversarial ones. Inputs are attacked anew at every
    step, always with the same draws, so that curves are as smooth as the loss.

    Args:
      apply_fn: the model, evaluation mode; ideally a ``jax.tree_util.Partial``.
      params: the weights in the middle.
      direction: a tree like `params`.
      x: inputs (n, h, w, c) in [0, 1].
      y: labels (n,).
      key: one key, or one per example.
      attack: attack on the inputs at every step; None for the clean loss.
      steps: multiples of the direction.
      batch_size: examples at a time.
      mesh: devices to spread the work over; see `rfm.devices`.
      on_step: called with the number of steps done.

    Returns:
      A `Landscape`. Any number of directions, steps and models share a compilation.

    Example:
      >>> import jax, jax.numpy as jnp, rfm
      >>> apply_fn = lambda w, x: jnp.concatenate([0 * x, w * x], axis=1)
      >>> x, y, key = jnp.ones((1, 1)), jnp.array([1]), jax.random.key(0)
      >>> w, d, settings = jnp.array([2.0]), jnp.array([1.0]), {"attack": None, "steps": (-1, 0, 1)}
      >>> path = rfm.flatness.landscape(apply_fn, w, d, x, y, key, **settings)
      >>> print(path.mean.round(3))
      [0.313 0.127 0.049]
    """
    points = np.asarray(steps, np.float64)[:, None]
    model = apply_fn, params, [direction]
    losses = _losses_at(points, *model, x, y, key, attack, batch_size, mesh, on_step)
    return Landscape(points[:, 0], losses, (_length(direction),))


def surface(
    apply_fn: ApplyFn,
    params: Params,
    directions: tuple[Params, Params],
    x: Images | np.ndarray,
    y: Labels | np.ndarray,
    key: Keys,
    *,
    attack: PGD | None,
    steps: Sequence[float] | np.ndarray = SURFACE_STEPS,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    on_step: Callable[[int], None] = lambda done: None,
) -> Landscape:
    """The (robust) loss over the plane of two directions; arguments as in `landscape`."""
    along = np.asarray(steps, np.float64)
    points = np.stack(np.meshgrid(along, along, indexing="ij"), -1).reshape(-1, 2)
    model = apply_fn, params, list(directions)
    losses = _losses_at(points, *model, x, y, key, attack, batch_size, mesh, on_step)
    shape = (len(along), len(along), len(x))
    return Landscape(along, losses.reshape(shape), tuple(map(_length, directions)))


def _losses_at(
    points: Float[np.ndarray, "m k"],
    apply_fn: ApplyFn,
    params: Params,
    directions: list[Params],
    x: Images | np.ndarray,
    y: Labels | np.ndarray,
    key: Keys,
    attack: PGD | None,
    batch_size: int,
    mesh: Mesh | None,
    on_step: Callable[[int], None],
) -> Float[np.ndarray, "m n"]:
    """Losses at ``params + sum_i point_i * direction_i``."""
    images, labels, keys = np.asarray(x), np.asarray(y), example_keys(key, len(x))
    cut = list(batches(len(x), batch_size))
    work = [(images[b.indices], labels[b.indices], keys[b.indices]) for b in cut]
    moves = points.astype(np.float32)
    pieces = ((examples, move) for move in moves for examples in work)
    model = as_partial(apply_fn), params, directions
    compiled = may_compile(bind(apply_fn, params), images[:1], attack)
    found = results(_loss_at, attack, model, pieces, mesh=mesh, compiled=compiled)
    rows = []
    for number in range(1, len(points) + 1):
        at_point = zip(itertools.islice(found, len(cut)), cut, strict=True)
        rows.append(np.concatenate([np.asarray(v, np.float64)[b.valid] for v, b in at_point]))
        on_step(number)
    return np.stack(rows)


def _loss_at(
    attack: PGD | None,
    model: tuple[ApplyFn, Params, list[Params]],
    examples: tuple[Images, Labels, Key[Array, " n"]],
    point: Float[Array, " k"],
) -> PerExample:
    apply_fn, params, directions = model
    return perturbed_loss(bind(apply_fn, _moved(params, directions, point)), *examples, attack)


@jax.jit
def _moved(params: Params, directions: list[Params], point: Float[Array, " k"]) -> Params:
    for index, direction in enumerate(directions):
        params = jax.tree.map(
            lambda w, d, t=point[index]: w + t.astype(w.dtype) * d, params, direction
        )
    return params


def _length(direction: Params) -> float:
    return float(optax.tree.norm(direction))
