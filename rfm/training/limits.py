"""Which numbers a config may have.

A run trains for hours before it measures, so all of them are checked before anything
is done. What a part checks itself when it is made (attacks, the model, the data) is
not repeated here.
"""

import math

import ml_collections

from rfm.errors import UserError

_AT_LEAST_ONE = (
    "train.epochs",
    "train.batch_size",
    "train.snapshot_every",
    "train.steps_per_dispatch",
    "evaluation.batch_size",
    "evaluation.clean_train_examples",
    "flatness.average.samples",
    "flatness.worst.restarts",
    "snapshots.restarts",
    "snapshots.average_samples",
    "snapshots.worst_restarts",
)
_AT_LEAST_ZERO = (
    "seed",
    "data.cutout",
    "adversary.stop_after",
    "optimiser.cycle",
    "optimiser.inner_steps",
    "train.micro_batches",
    "data.stream",
    "after.clip_weights",
    "weight_adversary.steps",
    "data.crop",
    "optimiser.factor",
    "optimiser.momentum",
    "optimiser.weight_decay",
    "evaluation.seed",
    "flatness.seed",
    "flatness.average.radius",
    "flatness.average.step_size",
    "flatness.average.steps",
    "flatness.worst.radius",
    "flatness.worst.steps",
    "flatness.worst.input_step_size",
    "flatness.worst.weight_step_size",
    "snapshots.steps",
)
_INT32 = 2**31 - 1
_MOST_EPOCHS = 10_000


def check(config: ml_collections.ConfigDict) -> None:
    """Checks all numbers of a config that need no data for it.

    Raises:
      UserError: one makes no sense; says which.
    """
    _check_size(config, "config")
    for least, names in ((1, _AT_LEAST_ONE), (0, _AT_LEAST_ZERO)):
        for name in names:
            value = config
            for part in name.split("."):
                value = value[part]
            if value < least:
                raise UserError(f"config.{name} must be at least {least}, got {value}")
    if not 0 <= config.data.label_noise <= 1:
        raise UserError(
            f"config.data.label_noise must be from 0 to 1, got {config.data.label_noise}"
        )
    if config.optimiser.momentum >= 1:
        raise UserError(
            f"config.optimiser.momentum must be less than 1, got {config.optimiser.momentum}"
        )
    if any(not 0 <= epoch <= _MOST_EPOCHS for epoch in config.optimiser.milestones):
        raise UserError(
            f"config.optimiser.milestones must be epochs from 0 to {_MOST_EPOCHS}, got"
            f" {config.optimiser.milestones}"
        )


def check_steps(steps: int) -> None:
    """Steps of the whole training are counted in 32 bits.

    Raises:
      UserError: there are more.
    """
    if steps > _INT32:
        raise UserError(f"config.train.epochs: {steps} steps are more than {_INT32}")


def _check_size(section: ml_collections.ConfigDict, name: str) -> None:
    """Numbers are finite, and whole ones have 32 bits: larger ones are slips."""
    for key, value in section.items():
        if isinstance(value, ml_collections.ConfigDict):
            _check_size(value, f"{name}.{key}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}.{key} must be a finite number, got {value}")
        elif isinstance(value, int) and abs(value) > _INT32:
            raise UserError(f"{name}.{key} must be at most {_INT32}, got {value}")
