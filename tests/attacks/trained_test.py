"""AutoAttack on real networks: trained here, on real images, with and without an adversary."""

import jax
import numpy as np
import pytest
from rfm.configs import base

from rfm import losses
from rfm.attacks import APGD, FAB, PGD, Square, Stage, autoattack
from rfm.threat import linf
from rfm.training import build, loop
from rfm.training.checkpoint import Checkpoints
from rfm.types import bind

KEY = jax.random.key(0)
EPSILON = 8 / 255


@pytest.fixture(scope="module")
def trained(cifar10, tmp_path_factory):
    """`trained(adversary)`: a small network that fits 128 training images, and 32 of these.

    Their middle, 16 by 16 pixels, for the sake of time.
    """
    data = tmp_path_factory.mktemp("data") / "middle.npz"
    middle = {k: v[:128, 8:24, 8:24] if k[0] == "x" else v[:128] for k, v in cifar10.items()}
    np.savez(data, **middle)

    def train(adversary: str):
        config = base.get_config()
        config.data.update(source=str(data), flip=False, crop=0)
        config.model.update(name="resnet8", width=8)
        config.adversary.update(name=adversary, steps=3, step_size=0.015)
        config.optimiser.milestones = (50,)
        config.train.update(epochs=60, batch_size=64, snapshot_every=60, steps_per_dispatch=120)
        config.validation.update(examples=16, steps=1, restarts=1)
        run, workdir = build.build(config), tmp_path_factory.mktemp(adversary)
        loop.train(run, workdir)
        with Checkpoints(workdir / "checkpoints", snapshot_steps=120, read_only=True) as stored:
            state = stored.restore(run.total_steps, run.initial_state())
        state = jax.device_get(state)
        x = run.dataset.train_images[:32].astype(np.float32) / 255
        y = np.asarray(run.dataset.train_labels[:32])
        return bind(run.apply_fn(state.batch_stats), state.params), x, y

    return train


def smaller(threat) -> tuple[Stage, ...]:
    """The standard ensemble with fewer steps, targets of FAB-T and queries."""
    loss = losses.targeted_difference_of_logits_ratio
    return (
        Stage("apgd-ce", APGD(threat, 40)),
        Stage("apgd-t", APGD(threat, 40, loss=loss), passes=9, targeted=True),
        Stage("fab-t", FAB(threat, 20), passes=3, targeted=True),
        Stage("square", Square(threat, 200)),
    )


def test_without_adversarial_training_nothing_stands(trained):
    logits_fn, x, y = trained("none")
    right = ~np.asarray(losses.is_misclassified(logits_fn(x), y))
    assert right.mean() > 0.9, "it did learn"
    ball = linf(EPSILON)
    found = autoattack(logits_fn, x, y, KEY, threat=ball, version=smaller(ball), batch_size=32)
    assert not found.robust.any()
    assert found.warnings == ()


def test_an_adversarially_trained_network_is_broken_at_least_as_often_as_by_pgd(trained):
    logits_fn, x, y = trained("pgd")
    ball = linf(EPSILON)
    pgd = PGD(ball, 20, 0.007, restarts=10, chunk=32)(logits_fn, x, y, KEY)
    by_pgd = np.asarray(pgd.success | losses.is_misclassified(logits_fn(x), y))
    found = autoattack(logits_fn, x, y, KEY, threat=ball, version=smaller(ball), batch_size=32)
    assert found.robust.mean() > 0.1, "it did learn"
    assert (~found.robust).sum() >= by_pgd.sum() - 1
