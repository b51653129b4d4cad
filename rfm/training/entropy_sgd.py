"""Entropy-SGD (Chaudhari et al., 2017): descent on the local entropy of the loss.

The local entropy ``log integral exp(-L(w') - gamma/2 ||w - w'||^2) dw'`` is large where low loss
is wide. Its gradient is ``gamma (w - <w'>)``, and an inner loop of stochastic gradient Langevin
dynamics, begun at w, estimates the mean <w'>. For every inner step with a fresh batch::

    v  <- momentum * v + dL(w') + weight_decay * w'             (v = 0 at the start)
    w' <- w' - inner_rate * (dL(w') + weight_decay * w' + momentum * v
                             - gamma * (w - w') + noise / sqrt(inner_rate / 2) * N(0, 1))
    mu <- average * mu + (1 - average) * w'                     (mu = w at the start)

(with Nesterov momentum; otherwise v takes the place of the gradient and momentum * v), then an
outer step of SGD with momentum and weight decay, on the gradient ``w - mu`` and at the learning
rate of the schedule. Scoping: gamma grows by a factor with every update, up to 1 / inner_rate,
where w' is drawn all the way back to w; beyond twice that the inner loop would diverge, and tens
of thousands of updates get there.

It follows the authors' PyTorch code, which Section G of the supplement follows, too (the factor
gamma of the outer gradient is left out in both), with three differences: there the counter of
updates that scoping needs never moves, the outer momentum begins at the first gradient, and a
batch is spent before the inner loop, of which nothing but the statistics are used.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree

from rfm.perturb import draw_like
from rfm.training.optimiser import GradFn
from rfm.training.state import TrainState
from rfm.types import Params


class _Inner(NamedTuple):
    params: Params
    mean: Params
    velocity: Params
    batch_stats: PyTree


@dataclasses.dataclass(frozen=True)
class EntropySGD:
    """An optimiser that takes `batches` fresh batches for an update.

    Attributes:
      outer: what follows ``w - mu``, an Optax transformation with its learning rate.
      batches: L, inner steps, each with its own batch.
      momentum: of the inner loop.
      nesterov: likewise.
      weight_decay: of the inner loop.
      scope: gamma at the first update (1e-4).
      scoping: gamma grows by ``1 + scoping`` with every update (1e-3).
      inner_rate: learning rate of the inner loop (0.1).
      average: of the inner mean (0.75).
      noise: of the Langevin dynamics (1e-4).

    Raises:
      ValueError: `batches` is not positive, or `average` is not in [0, 1).
    """

    outer: optax.GradientTransformation
    batches: int
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    scope: float = 1e-4
    scoping: float = 1e-3
    inner_rate: float = 0.1
    average: float = 0.75
    noise: float = 1e-4

    def __post_init__(self) -> None:
        if self.batches < 1 or not 0 <= self.average < 1:
            raise ValueError(
                "Entropy-SGD needs at least one inner step and an average in [0, 1), got"
                f" {self.batches} and {self.average}"
            )

    def init(self, params: Params) -> PyTree:
        return self.outer.init(params)

    def update(
        self, grad_fn: GradFn, state: TrainState, batches: Sequence[PyTree], key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        """One outer update; metrics are means over the inner steps."""
        growth = state.step.astype(jnp.float32) * np.log1p(self.scoping)
        limit = np.log(1 / (self.inner_rate * max(self.scope, 1e-30)))
        gamma = self.scope * jnp.exp(jnp.minimum(growth, limit))

        def step(
            inner: _Inner, drawn: tuple[PyTree, Key[Array, ""]]
        ) -> tuple[_Inner, dict[str, Float[Array, ""]]]:
            batch, of_step = drawn
            gradient_key, noise_key = jax.random.split(of_step)
            found = grad_fn(inner.params, inner.batch_stats, batch, gradient_key)
            noise = draw_like(noise_key, inner.params, jax.random.normal)
            moved, velocity = self._moved(inner, found.gradient, noise, state.params, gamma)
            mean = optax.incremental_update(moved, inner.mean, 1 - self.average)
            return _Inner(moved, mean, velocity, found.batch_stats), found.metrics

        start = _Inner(
            state.params, state.params, optax.tree.zeros_like(state.params), state.batch_stats
        )
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        keys = jax.random.split(key, self.batches)
        inner, metrics = jax.lax.scan(step, start, (stacked, keys))
        towards = optax.tree.sub(state.params, inner.mean)
        updates, optimiser = self.outer.update(towards, state.optimiser, state.params)
        state = dataclasses.replace(
            state,
            params=optax.apply_updates(state.params, updates),
            batch_stats=inner.batch_stats,
            optimiser=optimiser,
        )
        return state, jax.tree.map(jnp.mean, metrics)

    def _moved(
        self, inner: _Inner, gradient: Params, noise: Params, centre: Params, gamma: Array
    ) -> tuple[Params, Params]:
        """The next inner weights and velocity."""
        scale = self.noise / np.sqrt(0.5 * self.inner_rate)

        def velocity(v: Array, g: Array, w: Array) -> Array:
            return self.momentum * v + g + self.weight_decay * w

        def weights(w: Array, g: Array, v: Array, n: Array, c: Array) -> Array:
            slope = g + self.weight_decay * w + self.momentum * v if self.nesterov else v
            return w - self.inner_rate * (slope - gamma * (c - w) + scale * n)

        new_velocity = jax.tree.map(velocity, inner.velocity, gradient, inner.params)
        moved = jax.tree.map(weights, inner.params, gradient, new_velocity, noise, centre)
        return moved, new_velocity
