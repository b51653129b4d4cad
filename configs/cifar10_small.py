"""A slice of CIFAR-10 that a laptop can finish: ``--config configs/cifar10_small.py:METHOD``.

A narrow residual network on the first 5,000 training images, 12 epochs, and measures with 5
restarts and weight samples instead of 10: 6.6 minutes on two cores (12 minutes of CPU time;
measured before snapshots had flatness of Loss and lambda_max, too). It underfits; the README
has the numbers of a real run (Err 62.1, RErr 74.2, RLoss 2.00).
"""

from ml_collections import ConfigDict
from rfm.configs import base, methods


def get_config(method: str = "at") -> ConfigDict:
    """A run of `method` that a laptop finishes."""
    config = base.get_config()
    config.data.train_examples = 5000
    config.model.update(name="resnet8", width=16)
    config.optimiser.milestones = (8, 10)
    config.train.update(epochs=12, batch_size=64, snapshot_every=3, steps_per_dispatch=26)
    config.evaluation.update(examples=256, clean_train_examples=5000, restarts=5, autoattack="none")
    config.flatness.average.samples = 5
    config.flatness.worst.restarts = 5
    config.snapshots.update(examples=128, average_samples=4)
    return methods.apply(config, method)
