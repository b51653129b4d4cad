"""The adversary axis: on which inputs does the network train?

An adversary is a hashable callable ``(logits_fn, x, y, key) -> x_adversarial``. The
model it sees is in evaluation mode, as in the released experiments.
"""

import dataclasses
from typing import Protocol

from rfm.attacks import PGD
from rfm.types import Images, Keys, Labels, LogitsFn


class Adversary(Protocol):
    """Chooses the inputs that the objective is evaluated on."""

    def __call__(self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys) -> Images: ...


@dataclasses.dataclass(frozen=True)
class Attack:
    """Adversarial training's adversary: the worst iterate of an attack."""

    attack: PGD

    def __call__(self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys) -> Images:
        return self.attack(logits_fn, x, y, key).x


@dataclasses.dataclass(frozen=True)
class NoAdversary:
    """Plain training: the inputs as they are."""

    def __call__(self, logits_fn: LogitsFn, x: Images, y: Labels, key: Keys) -> Images:
        return x
