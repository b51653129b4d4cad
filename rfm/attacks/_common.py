"""What the attacks share: their result, their door, and a few lines of geometry."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, Shaped

from rfm.types import Images, Labels, PerExample, Targets, Threat


class AttackResult(NamedTuple):
    """What an attack found, per example.

    Attributes:
      x: the adversarial inputs, shape (n, h, w, c), inside the ball and inside [0, 1].
      loss: the loss there, shape (n,).
      success: was any iterate misclassified, shape (n,), bool.
    """

    x: Images
    loss: PerExample
    success: Bool[Array, " n"]


def check_inputs(x: Images, y: Labels) -> None:
    """Raises ValueError if shapes do not fit, or types are wrong."""
    if x.ndim < 2 or x.shape[0] < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x must be floating point, shape (n, h, w, c), n >= 1; got {x.dtype}{x.shape}"
        )
    check_labels("y", y, x.shape[0])


def check_labels(name: str, labels: Labels, n: int) -> None:
    """Raises ValueError unless they are `n` integers."""
    if labels.shape != (n,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers, shape ({n},); got {labels.dtype}{labels.shape}")


def check_targets(loss: Callable[..., PerExample], targets: Targets | None, n: int) -> None:
    """Raises ValueError if a loss that needs targets has none, or not one for each example."""
    if targets is not None:
        if targets.ndim == 1:
            check_labels("targets", targets, n)
        elif targets.shape[:1] != (n,):
            raise ValueError(f"targets must have {n} rows, got shape {targets.shape}")
        return
    try:
        inspect.signature(loss).bind("logits", "labels")
    except TypeError:
        name = getattr(loss, "__name__", repr(loss))
        raise ValueError(
            f"{name} is no loss of logits and labels alone: call the attack with targets"
        ) from None
    except ValueError:  # a callable without a signature
        return


def bind_targets(loss: Callable[..., PerExample], targets: Targets | None) -> Callable[..., Any]:
    """A loss of logits and labels; one that needs targets gets them."""
    if targets is None:
        return loss
    return lambda logits, labels: loss(logits, labels, targets)


def into_box(x: Images, delta: Images) -> Images:
    """The perturbation of the point of [0, 1] that is nearest to x + delta.

    Clipping moves each pixel towards x, so it never leaves the ball. (An input outside
    of [0, 1] would; `x` is trusted here.)
    """
    return jnp.clip(x + delta, 0.0, 1.0) - x


def where_rows(
    rows: Bool[Array, " n"], true: Shaped[Array, "n ..."], false: Shaped[Array, "n ..."]
) -> Shaped[Array, "n ..."]:
    """`true` in the given rows, `false` in the others."""
    return jnp.where(rows.reshape(-1, *[1] * (true.ndim - 1)), true, false)


def fold(keys: Key[Array, " n"], number: int | Array) -> Key[Array, " n"]:
    """``fold_in(key, number)`` of every example's key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def per_row(draw: Callable[..., Array], keys: Key[Array, " n"], shape: tuple[int, ...]) -> Array:
    """Draws of `shape`, each row by its own key: ``draw(key, (1, *shape[1:]))``."""
    return jax.vmap(lambda key: draw(key, (1, *shape[1:]))[0])(keys)


def finite(gradient: Array) -> Array:
    """0 where the gradient is not a number: a step along NaN would end in NaN pixels."""
    return jnp.where(jnp.isfinite(gradient), gradient, 0.0)


def better(a: AttackResult, b: AttackResult) -> AttackResult:
    """Per example the misclassified one; of equals the one of higher loss, `a` of ties."""
    take = jnp.where(a.success == b.success, b.loss > a.loss, b.success)
    return AttackResult(
        where_rows(take, b.x, a.x), jnp.where(take, b.loss, a.loss), a.success | b.success
    )


def as_column(values: PerExample, x: Images) -> Array:
    """Values per example, shape (n, 1, 1, 1), to multiply inputs with."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def to_boundary(threat: Threat, delta: Images) -> Images:
    """`delta` scaled to norm epsilon; 0 stays 0."""
    size = as_column(threat.norm(delta), delta)
    return delta * (threat.epsilon / jnp.where(size > 0, size, 1.0))
