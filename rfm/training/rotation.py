"""Self-supervision by rotation: half of a batch is rotated, and a head says by how much.

A network with a rotation head returns k logits of classes and four of rotations, side by side.
The label of a rotated example is ``k + r``, r quarter turns, so that attacks and objectives know
from the label alone which head is meant: `cross_entropy` looks at the logits of that head only.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from rfm import losses
from rfm.types import Images, Labels, Logits, PerExample

TURNS = 4


def rotate_half(
    x: Images, y: Labels, keys: Key[Array, " n"], positions: Int[Array, " n"], classes: int
) -> tuple[Images, Labels]:
    """Turns the examples at odd positions by 0, 90, 180 or 270 degrees, drawn for each.

    Args:
      x: square inputs (n, h, h, c).
      y: labels (n,), below `classes`.
      keys: one per example.
      positions: of the examples in the whole batch.
      classes: k.

    Returns:
      Inputs and labels; those of rotated examples are ``classes + turns``.
    """
    turns = jax.vmap(lambda key: jax.random.randint(key, (), 0, TURNS))(keys)
    rotated = jax.vmap(_turned)(x, turns)
    odd = positions % 2 == 1
    x = jnp.where(odd[:, None, None, None], rotated, x)
    return x, jnp.where(odd, classes + turns, y)


def _turned(image: Array, turns: Int[Array, ""]) -> Array:
    return jnp.stack([jnp.rot90(image, k) for k in range(TURNS)])[turns]


def cross_entropy(logits: Logits, labels: Labels, classes: int) -> PerExample:
    """Cross-entropy within the head that the label belongs to, shape (n,)."""
    rotated = labels >= classes
    of_class = losses.cross_entropy(logits[:, :classes], jnp.where(rotated, 0, labels))
    turns = jnp.where(rotated, labels - classes, 0)
    return jnp.where(rotated, losses.cross_entropy(logits[:, classes:], turns), of_class)


@dataclasses.dataclass(frozen=True)
class WithinHead:
    """`cross_entropy` as a loss of logits and labels, for attacks."""

    classes: int

    def __call__(self, logits: Logits, labels: Labels) -> PerExample:
        return cross_entropy(logits, labels, self.classes)
