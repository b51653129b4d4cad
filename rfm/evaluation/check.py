"""Can the measures that a config describes be taken? Asked before hours of training."""

import functools
from typing import Any

import jax
from ml_collections import ConfigDict

from rfm.errors import UserError, choose
from rfm.evaluation.attack import AUTOATTACKS
from rfm.evaluation.measure_curvature import LEAVES
from rfm.perturb import RelativeBall
from rfm.training.axes import attack
from rfm.training.build import Run

_SPLITS = ("test", "train")
_AT_LEAST = {
    1: (
        *("curvature.examples", "curvature.products", "curvature.probes"),
        *("landscape.examples", "landscape.directions", "flatness.average.samples"),
        *("flatness.worst.restarts", "snapshots.restarts", "snapshots.average_samples"),
        "snapshots.worst_restarts",
    ),
    0: (
        *("flatness.average.steps", "flatness.average.step_size", "flatness.worst.steps"),
        *("flatness.worst.input_step_size", "flatness.worst.weight_step_size"),
        *("landscape.attack_steps", "snapshots.steps", "snapshots.products"),
    ),
}
_RADII = (
    *("flatness.average.radius", "flatness.worst.radius"),
    *("landscape.random_length", "landscape.adversarial_length"),
)


def check_measures(run: Run) -> None:
    """Checks the sections of a run's config that say how it is measured.

    Raises:
      UserError: one of them does not fit the data or the devices; says which field.
    """
    config = run.config
    attack(config.evaluation, "config.evaluation")
    available = min(len(run.dataset.train_labels), len(run.dataset.test_labels))
    for section in ("evaluation", "snapshots"):
        count = config[section].examples
        if not 1 <= count <= available:
            raise UserError(
                f"config.{section}.examples must be from 1 to {available}, which is what"
                f" {run.dataset.name} has of both training and test examples; got {count}"
            )
    if unknown := [split for split in config.flatness.splits if split not in _SPLITS]:
        raise UserError(f"config.flatness.splits: {unknown[0]!r} is not one of {_SPLITS}")
    flat, curvature = config.flatness, config.curvature
    choose("config.curvature.leaves", curvature.leaves, LEAVES)
    choose("config.curvature.which", curvature.which, dict.fromkeys(("first", "last")))
    for field in _RADII:
        try:
            RelativeBall(_field(config, field), per=flat.per, drawn=flat.drawn)
        except ValueError as error:
            raise UserError(f"config.{field} with config.flatness: {error}") from None
    for least, fields in _AT_LEAST.items():
        for field in fields:
            if not _field(config, field) >= least:
                raise UserError(f"config.{field} must be at least {least}")
    for field in ("steps", "surface_steps"):
        if config.landscape[field] < 3 or config.landscape[field] % 2 == 0:
            raise UserError(f"config.landscape.{field} must be odd, and at least 3")
    choices = {"none": None, **AUTOATTACKS}
    choose("config.evaluation.autoattack", config.evaluation.autoattack, choices)
    if config.evaluation.batch_size % run.mesh.size:
        raise UserError(
            f"config.evaluation.batch_size must be a multiple of {run.mesh.size}, the number of"
            f" devices that share a batch; got {config.evaluation.batch_size}"
        )
    try:
        with jax.default_matmul_precision(config.evaluation.matmul_precision):
            pass
    except ValueError:
        raise UserError(
            "config.evaluation.matmul_precision must be one that JAX knows, such as 'highest' or"
            f" 'default', got {config.evaluation.matmul_precision!r}"
        ) from None


def _field(config: ConfigDict, name: str) -> Any:
    """``"flatness.worst.steps"`` of a config."""
    return functools.reduce(lambda section, key: section[key], name.split("."), config)
