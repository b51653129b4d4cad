"""Attacks: maximise a loss over inputs of a fixed model.

Every attack is a function ``attack(logits_fn, x, y, key) -> AttackResult`` of arrays.
Its settings live in a frozen dataclass (`PGD`, `APGD`, `FAB`, `Square`), which is hashable
and so can be a static argument, or are given by keyword to a function of the same name in
lower case (`pgd`, `apgd`, `fab`, `square`; `fgsm` is PGD of one step). `Targeted` aims one
of them at the most likely wrong classes, and `autoattack` runs them one after the other on
what still stands. `judge` and `judge_logits` evaluate what was found elsewhere.
"""

from rfm.attacks._common import AttackResult as AttackResult
from rfm.attacks.apgd import APGD as APGD
from rfm.attacks.apgd import apgd as apgd
from rfm.attacks.autoattack import autoattack as autoattack
from rfm.attacks.ensembles import Stage as Stage
from rfm.attacks.fab import FAB as FAB
from rfm.attacks.fab import fab as fab
from rfm.attacks.pgd import PGD as PGD
from rfm.attacks.pgd import fgsm as fgsm
from rfm.attacks.pgd import pgd as pgd
from rfm.attacks.square import Square as Square
from rfm.attacks.square import square as square
from rfm.attacks.targets import Targeted as Targeted
from rfm.attacks.verdict import EnsembleResult as EnsembleResult
from rfm.attacks.verdict import judge as judge
from rfm.attacks.verdict import judge_logits as judge_logits
