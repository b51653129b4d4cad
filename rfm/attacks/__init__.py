"""Attacks: maximise a loss over inputs of a fixed model.

Every attack is a function ``attack(logits_fn, x, y, key) -> AttackResult`` of arrays.
Its settings live in a frozen dataclass (`PGD`), which is hashable and so can be a
static argument, or are given by keyword to a function of the same name in lower case
(`pgd`).
"""

from rfm.attacks._common import AttackResult as AttackResult
from rfm.attacks.pgd import PGD as PGD
from rfm.attacks.pgd import pgd as pgd
