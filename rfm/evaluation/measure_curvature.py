"""The records ``curvature-LOSS-test``: extreme eigenvalues of the Hessian, Table A.

For RLoss the Hessian is taken at adversarial examples that are held fixed. The spectral density
is a record of its own, ``density-LOSS-test``, with its nodes and weights.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from rfm import flatness
from rfm.data.augment import to_float
from rfm.data.splits import Examples, evaluation, validation
from rfm.evaluation import records
from rfm.evaluation.robustness import attacked, estimate
from rfm.evaluation.tasks import Subject, Task, Tell, key_for
from rfm.flatness.curvature import LeafPredicate, all_leaves, several_dimensions
from rfm.training.axes import attack

Measure = Callable[[tuple[Any, ...], Mapping[str, Any], int], dict[str, Any]]

LEAVES: dict[str, LeafPredicate] = {
    "all": all_leaves,
    "several_dimensions": several_dimensions,
}


def curvature_task(subject: Subject, loss: str) -> Task:
    """lambda_max, lambda_min and their ratio for "loss" or "rloss" on test examples."""
    return _task(subject, f"curvature-{loss}-test", loss, _extremes, {})


def density_task(subject: Subject, loss: str) -> Task:
    """The spectral density for "loss" or "rloss" on test examples."""
    probes = subject.run.config.curvature.probes
    return _task(subject, f"density-{loss}-test", loss, _density, {"probes": probes})


def _task(subject: Subject, name: str, loss: str, measure: Measure, more: dict[str, Any]) -> Task:
    run, section = subject.run, subject.run.config.curvature
    count, products = section.examples, section.products
    if subject.snapshot:
        count, products = run.config.snapshots.examples, run.config.snapshots.products
    count = min(count, len(run.dataset.test_labels))
    if section.which == "first":
        examples = evaluation(run.dataset, "test", count)
    else:
        examples = validation(run.dataset, count)
    settings = attack(run.config.evaluation, "config.evaluation") if loss == "rloss" else None
    protocol = {
        "examples": {"split": "test", "which": section.which, "count": count},
        "batch_size": run.config.evaluation.batch_size,
        "seed": section.seed,
        "leaves": section.leaves,
        "products": products,
        "attack": records.describe_attack(settings),
        **more,
    }
    record = subject.record("curvature", name, "test", protocol)
    options = {
        "leaves": LEAVES[section.leaves],
        "products": products,
        "batch_size": run.config.evaluation.batch_size,
        "mesh": subject.run.mesh,
        **more,
    }
    compute = functools.partial(_measure, subject, examples, settings, measure, options)
    return Task({**record, "loss": loss}, compute, count)


def _measure(
    subject: Subject,
    examples: Examples,
    settings: Any,
    measure: Measure,
    options: Mapping[str, Any],
    tell: Tell,
) -> dict[str, Any]:
    config = subject.run.config
    seed, count = config.curvature.seed, len(examples.labels)
    x = np.asarray(to_float(examples.images))
    with jax.default_matmul_precision(config.evaluation.matmul_precision):
        if settings is not None:
            x = attacked(
                subject.logits_fn,
                examples.images,
                examples.labels,
                key_for(seed, "curvature-attack"),
                attack=settings,
                keep=count,
                batch_size=config.evaluation.batch_size,
                mesh=subject.run.mesh,
            ).x
        where = (subject.apply_fn, subject.params, x, examples.labels, key_for(seed, "curvature"))
        found = measure(where, options, count)
    tell(count)
    return {"per_example": {}, **found}


def _extremes(where: tuple[Any, ...], options: Mapping[str, Any], count: int) -> dict[str, Any]:
    found = flatness.extreme_eigenvalues(*where, **options)
    pairs = {"lambda_max": found.largest, "lambda_min": found.smallest}
    # Errors and intervals are over examples, to first order; the residual is Lanczos' own.
    values = {
        name: {**estimate(pair.examples), "value": pair.value, "residual": pair.residual}
        for name, pair in pairs.items()
    }
    return {
        "values": {**values, "convexity": _value(found.convexity, count)},
        "per_example": {name: pair.examples.tolist() for name, pair in pairs.items()},
    }


def _density(where: tuple[Any, ...], options: Mapping[str, Any], count: int) -> dict[str, Any]:
    found = flatness.spectral_density(*where, **options)
    mean, error = found.mean_of(lambda values: values)
    trace = _value(mean * found.dimension, count)
    return {
        "values": {"trace": trace | {"standard_error": error * found.dimension}},
        "density": {
            "nodes": found.nodes.tolist(),
            "weights": found.weights.tolist(),
            "dimension": found.dimension,
        },
    }


def _value(value: float, count: int) -> dict[str, Any]:
    return {"value": value, "standard_error": None, "examples": count}
