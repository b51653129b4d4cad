"""The weight adversary axis: at which weights is the gradient taken?

Plain training takes it at the weights themselves. Here the weights are first moved to where
the loss of the same adversarial examples is higher; the gradient there is then applied to
the weights that were not moved. A weight adversary is a hashable callable that is given the
gradient as a function of the weights; it wraps any objective and any optimiser.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from rfm.perturb import RelativeBall
from rfm.types import Params


class WeightAdversary(Protocol):
    """Moves the weights to a place of higher loss."""

    def __call__(
        self, gradient_at: Callable[[Params], Params], params: Params, gradient: Params
    ) -> Params:
        """The weights to take the gradient at.

        Args:
          gradient_at: the gradient of the batch's loss at other weights.
          params: the weights.
          gradient: ``gradient_at(params)``, which is known already.
        """
        ...


@dataclasses.dataclass(frozen=True)
class AdversarialWeights:
    """AT-AWP (Wu et al., 2020), Eq. (12) of the supplement.

    ::

        nu <- project(nu + xi * gradient_l / ||gradient_l|| * ||w_l||)

    in every layer, from nu = 0: after one step nu is on the ball's surface in every layer
    whose gradient is not 0. The normalisation is that of Eq. (2); its parameters are left alone.

    Attributes:
      ball: of radius xi; also the step size.
      steps: of ascent (1).

    Raises:
      ValueError: `steps` is not positive.
    """

    ball: RelativeBall
    steps: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"adversarial weights need at least one step, got {self.steps}")

    def __call__(
        self, gradient_at: Callable[[Params], Params], params: Params, gradient: Params
    ) -> Params:
        def moved(nu: Params, gradient: Params) -> Params:
            uphill = self.ball.direction(gradient, params)
            return self.ball.project(optax.tree.add(nu, uphill), params)

        def step(_: jax.Array, nu: Params) -> Params:
            return moved(nu, gradient_at(optax.tree.add(params, nu)))

        nu = moved(optax.tree.zeros_like(params), gradient)
        if self.steps > 1:
            nu = jax.lax.fori_loop(1, self.steps, step, nu)
        return optax.tree.add(params, nu)


@dataclasses.dataclass(frozen=True)
class SharpnessAware:
    """SAM (Foret et al., 2021): ``w + rho * gradient / ||gradient||``, over all weights.

    Attributes:
      rho: how far, in the unit of the weights (0.05).

    Raises:
      ValueError: `rho` is negative.
    """

    rho: float = 0.05

    def __post_init__(self) -> None:
        if not self.rho >= 0:
            raise ValueError(f"rho must be at least 0, got {self.rho}")

    def __call__(
        self, gradient_at: Callable[[Params], Params], params: Params, gradient: Params
    ) -> Params:
        norm = optax.tree.norm(gradient)
        return optax.tree.add_scale(params, self.rho / jnp.where(norm > 0, norm, 1.0), gradient)
