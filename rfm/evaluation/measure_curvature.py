"""The records ``curvature-LOSS-test``: extreme eigenvalues of the Hessian, Table A.

For RLoss the Hessian is taken at adversarial examples that are held fixed. With the
spectral density a record holds its nodes and weights, too.
"""

import functools
from typing import Any

import jax
import numpy as np

from rfm import flatness
from rfm.data.augment import to_float
from rfm.data.splits import Examples, evaluation, validation
from rfm.evaluation import records
from rfm.evaluation.robustness import attacked
from rfm.evaluation.tasks import Subject, Task, Tell, key_for
from rfm.flatness.curvature import LeafPredicate, all_leaves, several_dimensions
from rfm.training.build import attack

LEAVES: dict[str, LeafPredicate] = {
    "all": all_leaves,
    "several_dimensions": several_dimensions,
}


def curvature_task(subject: Subject, loss: str, *, density: bool = False) -> Task:
    """lambda_max, lambda_min and their ratio for "loss" or "rloss" on test examples."""
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
        "probes": section.probes if density else 0,
        "attack": records.describe_attack(settings),
    }
    record = subject.record("curvature", f"curvature-{loss}-test", "test", protocol)
    compute = functools.partial(_measure, subject, examples, settings, products, density)
    return Task({**record, "loss": loss}, compute, count)


def _measure(
    subject: Subject, examples: Examples, settings: Any, products: int, density: bool, tell: Tell
) -> dict[str, Any]:
    config = subject.run.config
    section, size = config.curvature, config.evaluation.batch_size
    key, count = key_for(section.seed, "curvature"), len(examples.labels)
    x = np.asarray(to_float(examples.images))
    with jax.default_matmul_precision(config.evaluation.matmul_precision):
        if settings is not None:
            x = attacked(
                subject.logits_fn,
                examples.images,
                examples.labels,
                key_for(section.seed, "curvature-attack"),
                attack=settings,
                keep=count,
                batch_size=size,
                place=subject.place,
            ).x
        where = (subject.apply_fn, subject.params, x, examples.labels, key)
        options = {"leaves": LEAVES[section.leaves], "products": products, "batch_size": size}
        found = flatness.extreme_eigenvalues(*where, **options, place=subject.place)
        spectrum = None
        if density:
            spectrum = flatness.spectral_density(
                *where, **options, probes=section.probes, place=subject.place
            )
    tell(count)
    values: dict[str, Any] = {
        "lambda_max": _value(found.largest.value, count, residual=found.largest.residual),
        "lambda_min": _value(found.smallest.value, count, residual=found.smallest.residual),
        "convexity": _value(found.convexity, count),
    }
    result: dict[str, Any] = {"values": values, "per_example": {}}
    if spectrum is not None:
        mean, error = spectrum.mean_of(lambda values: values)
        trace = mean * spectrum.dimension
        values["trace"] = _value(trace, count) | {"standard_error": error * spectrum.dimension}
        result["density"] = {
            "nodes": spectrum.nodes.tolist(),
            "weights": spectrum.weights.tolist(),
            "dimension": spectrum.dimension,
        }
    return result


def _value(value: float, count: int, **more: float) -> dict[str, Any]:
    """An eigenvalue has no standard error; its residual says how exact it is."""
    return {"value": value, "standard_error": None, "examples": count, **more}
