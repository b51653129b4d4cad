"""The study's findings on two CPU cores: ``--config configs/cifar10_study.py:METHOD``.

A slice of CIFAR-10 on which adversarial training overfits as the study's baseline does.
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
    return methods.apply(config, method)
