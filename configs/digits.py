"""Handwritten digits, 8x8 pixels, shipped with scikit-learn: nothing to download.

The default of ``rfm run``: all of training, evaluation, flatness and report in 94 seconds
on two CPU cores. Epsilon is 0.1 and all sizes are small; numbers say
something about this toy only. They are in the README.
"""

from ml_collections import ConfigDict
from rfm.configs import base, methods


def get_config(method: str = "at") -> ConfigDict:
    """A small run of `method` on digits."""
    config = base.get_config()
    config.data.update(source="digits", flip=False, crop=1)
    config.model.update(name="resnet8", width=16)
    for section in (config.adversary, config.validation, config.evaluation):
        section.update(epsilon=0.1, step_size=0.02)
    config.optimiser.milestones = (12, 16)
    config.train.update(epochs=20, batch_size=64, snapshot_every=4, steps_per_dispatch=10)
    config.validation.update(examples=100)
    config.evaluation.update(examples=256, clean_train_examples=1297, autoattack="none")
    config.flatness.average.step_size = 0.02
    config.flatness.worst.input_step_size = 0.02
    config.snapshots.update(examples=128, average_samples=4)
    return methods.apply(config, method)
