"""Signs that a model defies the evaluation, as in the original AutoAttack.

Robustness that is only hidden gradients is an old mistake (Athalye et al., 2018). Each
check returns a line that says what is suspicious, or None.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rfm import losses
from rfm.devices import fetch
from rfm.types import Images, Labels, LogitsFn

_PROBABILITY = 1e-5
_CALLS, _SAME = 5, 1e-4
_MANY = 0.05
_SQUARE = 0.002


def outputs_are_probabilities(logits: Float[Array, "n k"]) -> str | None:
    """In [0, 1], with sums of one."""
    values = fetch(logits).astype(np.float64)
    in_range = values.min() > -_PROBABILITY and values.max() < 1 + _PROBABILITY
    if in_range and np.all(np.abs(values.sum(-1) - 1) < _PROBABILITY):
        return "outputs look like probabilities: give logits, or gradients vanish"
    return None


def outputs_change(logits_fn: LogitsFn, x: Images) -> str | None:
    """Five calls at the same inputs, not compiled: that would fix what a model draws."""
    outputs = np.stack([fetch(logits_fn(x)).astype(np.float64) for _ in range(_CALLS)])
    outputs /= np.linalg.norm(outputs, axis=-1, keepdims=True) + 1e-10
    if np.linalg.norm(outputs - outputs[:1], axis=-1).max() > _SAME:
        return "logits change between calls: give the model a key and use version 'rand'"
    return None


def gradients_are_zero(logits_fn: LogitsFn, x: Images, y: Labels) -> str | None:
    """Exactly, of the cross-entropy, at many inputs."""
    share = float(_share_without_gradient(logits_fn, x, y))
    if share > _MANY:
        return (
            f"gradients are exactly zero at {share:.0%} of the inputs: attacks by gradients"
            " say little about this model"
        )
    return None


def square_is_better(broken_by: Int[np.ndarray, " n"], square: int) -> str | None:
    """After attacks with gradients it should find nothing more."""
    share = float(np.mean(broken_by == square))
    if share > _SQUARE:
        return (
            f"the Square attack broke {share:.1%} of the examples, which the attacks before it did"
            " not: use more queries and restarts, or an attack made for this model"
        )
    return None


@jax.jit
def _share_without_gradient(logits_fn: LogitsFn, x: Images, y: Labels) -> Float[Array, ""]:
    gradient = jax.grad(lambda x: losses.cross_entropy(logits_fn(x), y).sum())(x)
    none: Bool[Array, " n"] = (gradient == 0).reshape(len(x), -1).all(1)
    return jnp.mean(none)
