"""Targeted attacks: push every example to one class, then to the next.

An attack that is called with targets pushes each example to its target. `Targeted` calls
it once for each of the most likely wrong classes, as APGD-T and FAB-T do in AutoAttack::

    Targeted(APGD(threat, loss=losses.targeted_difference_of_logits_ratio), classes=9)
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rfm.attacks._common import AttackResult, better, check_inputs, fold
from rfm.types import Images, Keys, Labels, LogitsFn, Threat, as_partial, example_keys


class TargetedAttack(Protocol):
    """An attack that can be given targets."""

    @property
    def threat(self) -> Threat: ...

    def __call__(
        self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys, targets: Labels | None = None
    ) -> AttackResult: ...


@dataclasses.dataclass(frozen=True)
class Targeted:
    """An attack, once for each of the most likely wrong classes.

    Attributes:
      attack: called with targets; its loss must be a targeted one.
      classes: how many, at most; models with fewer classes have fewer targets.

    Raises:
      ValueError: `classes` is not positive.
    """

    attack: TargetedAttack
    classes: int = 9

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"Targeted needs classes >= 1, got {self.classes}")

    @property
    def threat(self) -> Threat:
        """The ball of the attack."""
        return self.attack.threat

    def __call__(self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys) -> AttackResult:
        """As the attack; per example, the misclassified input of highest loss."""
        check_inputs(x, y)
        logits_fn, keys = as_partial(logits_fn), example_keys(key, x.shape[0])
        wrong = likely_targets(logits_fn, x, y)[: self.classes]
        found = self.attack(logits_fn, x, y, fold(keys, 0), wrong[0])
        for number, targets in enumerate(wrong[1:], start=1):
            found = better(found, self.attack(logits_fn, x, y, fold(keys, number), targets))
        return found


@jax.jit
def likely_targets(logits_fn: LogitsFn, x: Images, y: Labels) -> Int[Array, "k-1 n"]:
    """The wrong classes of every example, the most likely one first."""
    logits = logits_fn(x)
    true = jax.nn.one_hot(y, logits.shape[-1], dtype=bool)
    order = jnp.argsort(jnp.where(true, -jnp.inf, logits), axis=-1, descending=True)
    return order[:, :-1].T.astype(jnp.int32)
