"""AutoAttack on real networks: trained here, on real images, with and without an adversary."""

import jax
import numpy as np
import pytest

from rfm import losses
from rfm.attacks import APGD, FAB, PGD, Square, Stage, autoattack
from rfm.threat import linf
from rfm.types import bind

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
EPSILON = 8 / 255


def smaller(threat) -> tuple[Stage, ...]:
    """The standard ensemble with fewer steps, targets of FAB-T and queries."""
    loss = losses.targeted_difference_of_logits_ratio
    return (
        Stage("apgd-ce", APGD(threat, 40)),
        Stage("apgd-t", APGD(threat, 40, loss=loss), passes=9, targeted=True),
        Stage("fab-t", FAB(threat, 20), passes=3, targeted=True),
        Stage("square", Square(threat, 200)),
    )


def test_without_adversarial_training_nothing_stands(trained_network):
    apply_fn, params, x, y = trained_network("none")
    logits_fn = bind(apply_fn, params)
    right = ~np.asarray(losses.is_misclassified(logits_fn(x), y))
    assert right.mean() > 0.9, "it did learn"
    ball = linf(EPSILON)
    found = autoattack(logits_fn, x, y, KEY, threat=ball, version=smaller(ball), batch_size=32)
    assert not found.robust.any()
    assert found.warnings == ()


def test_an_adversarially_trained_network_is_broken_at_least_as_often_as_by_pgd(trained_network):
    apply_fn, params, x, y = trained_network("pgd")
    logits_fn = bind(apply_fn, params)
    ball = linf(EPSILON)
    pgd = PGD(ball, 20, 0.007, restarts=10, chunk=32)(logits_fn, x, y, KEY)
    by_pgd = np.asarray(pgd.success | losses.is_misclassified(logits_fn(x), y))
    found = autoattack(logits_fn, x, y, KEY, threat=ball, version=smaller(ball), batch_size=32)
    assert found.robust.mean() > 0.1, "it did learn"
    assert (~found.robust).sum() >= by_pgd.sum() - 1
