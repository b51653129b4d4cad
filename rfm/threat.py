"""Threat models: norm balls around an input.

An attack needs four things of a ball, and each is one method: draw a point in it
(`sample`), come back to it (`project`), the direction in which a linear loss grows
fastest for a unit step (`steepest_ascent`), and a distance (`norm`). Perturbations
are arrays (n, h, w, c) in the units of the inputs, that is [0, 1]; norms are per
example. The box [0, 1] itself belongs to the attack, not to the ball.

    >>> import jax, rfm
    >>> ball = rfm.threat.linf(8 / 255)
    >>> delta = ball.sample(jax.random.key(0), (2, 4, 4, 3))
    >>> bool((ball.norm(delta) <= 8 / 255).all())
    True
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from rfm.types import Images, PerExample


def _over_example(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def l2_norm(delta: Images, *, keepdims: bool = False) -> Array:
    """Euclidean norm per example, with gradient 0 (not NaN) at 0."""
    squared = jnp.sum(jnp.square(delta), axis=_over_example(delta), keepdims=keepdims)
    is_zero = squared == 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squared)))


def _check_epsilon(epsilon: float) -> None:
    if not 0 <= epsilon < float("inf"):
        raise ValueError(f"epsilon must be a finite number >= 0, got {epsilon!r}")


@dataclasses.dataclass(frozen=True)
class Linf:
    """``{delta : max |delta_i| <= epsilon}``."""

    epsilon: float

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        """Uniform in the ball."""
        return jax.random.uniform(key, shape, minval=-self.epsilon, maxval=self.epsilon)

    def project(self, delta: Images) -> Images:
        """Nearest point of the ball (in any Lp norm)."""
        return jnp.clip(delta, -self.epsilon, self.epsilon)

    def steepest_ascent(self, gradient: Images) -> Images:
        """``sign(gradient)``: the unit step that increases a linear loss most."""
        return jnp.sign(gradient)

    def norm(self, delta: Images) -> PerExample:
        return jnp.max(jnp.abs(delta), axis=_over_example(delta))


@dataclasses.dataclass(frozen=True)
class L2:
    """``{delta : ||delta||_2 <= epsilon}``."""

    epsilon: float

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        """Uniform in the ball, one point per leading index of `shape`."""
        dimension = 1
        for size in shape[1:]:
            dimension *= size
        direction, radius = jax.random.split(key)
        gaussian = jax.random.normal(direction, shape)
        uniform = jax.random.uniform(radius, (shape[0],) + (1,) * (len(shape) - 1))
        return self.epsilon * uniform ** (1 / dimension) * self.steepest_ascent(gaussian)

    def project(self, delta: Images) -> Images:
        """Nearest point of the ball in L2; points inside do not move."""
        norm = l2_norm(delta, keepdims=True)
        return jnp.where(
            norm > self.epsilon, delta * (self.epsilon / jnp.maximum(norm, 1e-30)), delta
        )

    def steepest_ascent(self, gradient: Images) -> Images:
        """``gradient / ||gradient||_2``, and 0 where the gradient is 0."""
        # Squares of a saturated model's gradients (below 1e-19) would underflow.
        largest = jnp.max(jnp.abs(gradient), axis=_over_example(gradient), keepdims=True)
        gradient = gradient / jnp.where(largest > 0, largest, 1.0)
        norm = l2_norm(gradient, keepdims=True)
        return gradient / jnp.where(norm > 0, norm, 1.0)

    def norm(self, delta: Images) -> PerExample:
        return l2_norm(delta)


def linf(epsilon: float) -> Linf:
    """The L-infinity ball of radius `epsilon`, inputs in [0, 1] (8/255 on CIFAR-10).

    Raises:
      ValueError: `epsilon` is negative or not finite.

    Example:
      >>> import jax.numpy as jnp, rfm
      >>> print(rfm.threat.linf(0.5).project(jnp.array([[0.25, -0.75]])))
      [[ 0.25 -0.5 ]]
    """
    return Linf(float(epsilon))


def l2(epsilon: float) -> L2:
    """The L2 ball of radius `epsilon`, inputs in [0, 1] (128/255 is common).

    Raises:
      ValueError: `epsilon` is negative or not finite.

    Example:
      >>> import jax.numpy as jnp, rfm
      >>> print(rfm.threat.l2(2.5).project(jnp.array([[3.0, 4.0]])))
      [[1.5 2. ]]
    """
    return L2(float(epsilon))
