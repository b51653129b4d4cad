"""The adversary axis: on which inputs does the network train?

An adversary is a hashable callable ``(logits_fn, x, y, key) -> x_adversarial``. The
model it sees is in evaluation mode, as in the released experiments, and the labels are the
true ones, without the noise that the update may have.
"""

import dataclasses
from typing import Protocol

import jax.numpy as jnp

from rfm import losses
from rfm.attacks import PGD
from rfm.types import Images, Keys, Labels, LogitsFn


class Adversary(Protocol):
    """Chooses the inputs that the objective is evaluated on."""

    def __call__(self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys) -> Images: ...


@dataclasses.dataclass(frozen=True)
class Attack:
    """What an attack returns: usually the worst iterate.

    Attributes:
      attack: PGD, early stopping included (PGD-tau: `PGD.stop_after`).
      from_clean: the loss takes the logits of the clean inputs as targets, as the divergence
        of TRADES does.
      ignore_incorrect: examples that are misclassified without an attack stay as they are
        (Section G, "Ignoring Incorrect Examples").
      prevent_label_leaking: the attack is against the predicted labels, not the true ones
        (Kurakin et al., 2017; Section G).
    """

    attack: PGD
    from_clean: bool = False
    ignore_incorrect: bool = False
    prevent_label_leaking: bool = False

    def __call__(self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys) -> Images:
        if not (self.from_clean or self.ignore_incorrect or self.prevent_label_leaking):
            return self.attack(logits_fn, x, y, key).x
        clean = logits_fn(x)
        against = jnp.argmax(clean, axis=-1).astype(y.dtype) if self.prevent_label_leaking else y
        targets = clean if self.from_clean else None
        found = self.attack(logits_fn, x, against, key, targets).x
        if self.ignore_incorrect:
            wrong = losses.is_misclassified(clean, y)
            found = jnp.where(wrong[:, None, None, None], x, found)
        return found


@dataclasses.dataclass(frozen=True)
class NoAdversary:
    """Plain training: the inputs as they are."""

    def __call__(self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys) -> Images:
        return x
