"""A slice of CIFAR-10 that a laptop can finish: ``--config configs/cifar10_small.py:METHOD``.

A narrow residual network on the first 5,000 training images. About ten minutes on two
CPU cores; the numbers of a real run are in the README.
"""

from ml_collections import ConfigDict
from rfm.configs import base, methods


def get_config(method: str = "at") -> ConfigDict:
    """A ten-minute run of `method`."""
    config = base.get_config()
    config.data.train_examples = 5000
    config.model.update(name="resnet8", width=16)
    config.optimiser.milestones = (12, 16)
    config.train.update(epochs=20, snapshot_every=5, steps_per_dispatch=13)
    config.evaluation.update(examples=256, clean_train_examples=5000)
    config.snapshots.update(examples=128, average_samples=4)
    return methods.apply(config, method)
