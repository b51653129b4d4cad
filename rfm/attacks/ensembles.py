"""Which attacks an ensemble is made of, and in what order.

"standard", "plus" and "rand" are those of Croce & Hein (2020), with the budgets of the
authors' code. An ensemble of your own is a tuple of `Stage`s.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from rfm import losses
from rfm.attacks.apgd import APGD
from rfm.attacks.fab import FAB
from rfm.attacks.square import Square
from rfm.types import Threat


@dataclasses.dataclass(frozen=True)
class Stage:
    """One attack of an ensemble.

    Attributes:
      name: as it is reported, e.g. "apgd-t".
      attack: called once for each pass; passes differ in their keys.
      passes: restarts, or the number of target classes.
      targeted: call the attack with targets, one class per pass.
    """

    name: str
    attack: Any
    passes: int = 1
    targeted: bool = False


def _apgd_t(threat: Threat) -> Stage:
    loss = losses.targeted_difference_of_logits_ratio
    return Stage("apgd-t", APGD(threat, loss=loss), passes=9, targeted=True)


STAGES: dict[str, Callable[[Threat], Stage]] = {
    "apgd-ce": lambda threat: Stage("apgd-ce", APGD(threat)),
    "apgd-dlr": lambda threat: Stage(
        "apgd-dlr", APGD(threat, loss=losses.difference_of_logits_ratio)
    ),
    "apgd-t": _apgd_t,
    "fab": lambda threat: Stage("fab", FAB(threat)),
    "fab-t": lambda threat: Stage("fab-t", FAB(threat), passes=9, targeted=True),
    "square": lambda threat: Stage("square", Square(threat)),
}
"""The attacks of the ensembles by name, as "standard" has them."""


def standard(threat: Threat) -> tuple[Stage, ...]:
    """APGD on cross-entropy, APGD-T and FAB-T with 9 targets, Square with 5000 queries."""
    return tuple(STAGES[name](threat) for name in ("apgd-ce", "apgd-t", "fab-t", "square"))


def plus(threat: Threat) -> tuple[Stage, ...]:
    """Adds APGD on DLR and untargeted FAB; these and APGD on cross-entropy start five times."""
    names = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
    ce, dlr, fab, square, apgd_t, fab_t = (STAGES[name](threat) for name in names)
    ce, dlr = (dataclasses.replace(stage, passes=5) for stage in (ce, dlr))
    again = dataclasses.replace(fab, attack=FAB(threat, random_start=True), passes=4)
    return ce, dlr, fab, again, square, apgd_t, fab_t


def rand(threat: Threat) -> tuple[Stage, ...]:
    """For models that take a key: APGD on averages of 20 gradients, two losses."""
    return tuple(
        dataclasses.replace(stage, attack=dataclasses.replace(stage.attack, draws=20))
        for stage in (STAGES[name](threat) for name in ("apgd-ce", "apgd-dlr"))
    )


VERSIONS: dict[str, Callable[[Threat], tuple[Stage, ...]]] = {
    "standard": standard,
    "plus": plus,
    "rand": rand,
}


def passes(stage: Stage, classes: int) -> int:
    """How many passes a stage makes over a model of so many classes."""
    return min(stage.passes, classes - 1) if stage.targeted else stage.passes
