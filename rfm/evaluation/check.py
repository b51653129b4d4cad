"""Can the measures that a config describes be taken? Asked before hours of training."""

import jax

from rfm.errors import UserError, choose
from rfm.evaluation.attack import AUTOATTACKS
from rfm.evaluation.measure_curvature import LEAVES
from rfm.perturb import RelativeBall
from rfm.training.build import Run, attack

_SPLITS = ("test", "train")
_POSITIVE = (
    *(("curvature", name) for name in ("examples", "products", "probes")),
    *(("landscape", name) for name in ("examples", "steps", "directions", "surface_steps")),
)


def check_measures(run: Run) -> None:
    """Checks the sections `evaluation`, `flatness` and `snapshots` of a run's config.

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
    try:
        RelativeBall(flat.average.radius, per=flat.per, drawn=flat.drawn)
    except ValueError as error:
        raise UserError(f"config.flatness: {error}") from None
    for section, field in _POSITIVE:
        if config[section][field] < 1:
            raise UserError(f"config.{section}.{field} must be at least 1")
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
