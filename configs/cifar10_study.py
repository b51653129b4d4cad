"""The paper's findings on two CPU cores: ``--config configs/cifar10_study.py:METHOD``.

A slice of CIFAR-10 on which adversarial training overfits as the paper's baseline does: the first
500 training images without flips and crops, ResNet-8 of width 8 (19,954 weights, 6.15 million
operations forward), batches of 25, 100 epochs. Measured as in the paper but for the number of
examples, 256 of test and of train, at the end and where early stopping stops. A run takes
5.5e12 operations to train and at most 11e12 to measure, 13 minutes on one core; smaller measures
of all snapshots 16 more, which ``rfm sweep --no-snapshots`` leaves out. Seed 0 of ``at`` got
RErr 91.8 (93.0 by AutoAttack), RLoss 3.06; stopped early 78.9 (82.0) and 2.26. What became of the
other methods is in docs/results/study.md.
"""

from ml_collections import ConfigDict
from rfm.configs import base, methods


def get_config(method: str = "at") -> ConfigDict:
    """A run of `method` in the small study."""
    config = base.get_config()
    config.data.update(train_examples=500, flip=False, crop=0)
    config.model.update(name="resnet8", width=8)
    config.optimiser.milestones = (60, 80)
    config.train.update(epochs=100, batch_size=25, snapshot_every=4, steps_per_dispatch=20)
    config.validation.restarts = 1
    config.evaluation.update(examples=256, clean_train_examples=500, early_stopping=True)
    config.snapshots.update(examples=256)
    config.curvature.examples = 256
    return methods.apply(config, method)
