"""The records ``flatness-CASE-LOSS-SPLIT``: Eqs. (3) and (5) for Loss and RLoss.

The reference, the loss at the weights themselves, is the one of the evaluation record
of the same checkpoint and examples (PGD with 20 steps and 10 restarts, Section D): it
is computed once for all measures.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rfm import flatness
from rfm.data.augment import to_float
from rfm.data.splits import Examples, evaluation
from rfm.evaluation import records
from rfm.evaluation.robustness import estimate
from rfm.evaluation.tasks import Subject, Task, key_for
from rfm.flatness import Flatness
from rfm.perturb import RelativeBall
from rfm.training.axes import attack

Measure = Callable[..., Flatness]


def flatness_tasks(subject: Subject, evaluated: Mapping[str, Mapping[str, Any]]) -> list[Task]:
    """Average and worst case, Loss and RLoss; of a snapshot on test only.

    Args:
      subject: what is measured.
      evaluated: its evaluation records by split.
    """
    splits = ("test",) if subject.snapshot else subject.run.config.flatness.splits
    return [
        flatness_task(subject, evaluated[split], case, loss)
        for split in splits
        for case in ("average", "worst")
        for loss in ("loss", "rloss")
    ]


def flatness_task(
    subject: Subject,
    evaluated: Mapping[str, Any],
    case: str,
    loss: str,
    *,
    radius: float | None = None,
) -> Task:
    """One measure.

    Args:
      subject: what is measured.
      evaluated: the evaluation record of the split.
      case: "average" or "worst".
      loss: "loss" or "rloss".
      radius: another one than the config's (Fig. E); then the record's name says it. At 0
        the value is 0 or below: what this attack finds less than the reference's.
    """
    split, count = evaluated["split"], evaluated["protocol"]["examples"]["count"]
    robust, section = loss == "rloss", subject.run.config.flatness
    suffix = "" if radius in (None, section[case].radius) else f"-xi-{radius:g}"
    settings = _settings(subject, robust, radius)[case]
    protocol = {
        "examples": evaluated["protocol"]["examples"],
        "batch_size": subject.run.config.evaluation.batch_size,
        "seed": section.seed,
        "reference": evaluated["protocol"]["attack"] if robust else None,
        **{name: records.describe(v) for name, v in settings.items() if name != "chunk"},
    }
    if case == "average":
        protocol["attack"] = records.describe_attack(settings["attack"])
    else:
        protocol["threat"] = records.describe_threat(settings["threat"])
    record = subject.record("flatness", f"flatness-{case}-{loss}-{split}{suffix}", split, protocol)
    if suffix:
        record["variant"] = f"{record['variant']}{suffix}".removeprefix("-")
    measure = flatness.average_case if case == "average" else flatness.worst_case
    reference = np.array(evaluated["per_example"][loss], np.float64)  # null becomes NaN
    return Task(
        {**record, "case": case, "loss": loss},
        functools.partial(
            _measure,
            subject,
            evaluation(subject.run.dataset, split, count),
            reference,
            measure,
            settings,
        ),
        count,
    )


def _settings(subject: Subject, robust: bool, radius: float | None) -> dict[str, dict[str, Any]]:
    """Keyword arguments of the two measures."""
    config: ConfigDict = subject.run.config
    average, worst, section = config.flatness.average, config.flatness.worst, config.flatness
    evaluated = attack(config.evaluation, "config.evaluation")
    samples, restarts = average.samples, worst.restarts
    average_steps, worst_steps = average.steps, worst.steps
    if subject.snapshot:
        small = config.snapshots
        samples, restarts = small.average_samples, small.worst_restarts
        average_steps = worst_steps = small.steps
    inputs = dataclasses.replace(
        evaluated, steps=average_steps, step_size=average.step_size, restarts=1
    )

    def ball(of_config: float) -> RelativeBall:
        chosen = of_config if radius is None else radius
        return RelativeBall(chosen, per=section.per, drawn=section.drawn)

    return {
        "average": {
            "ball": ball(average.radius),
            "samples": samples,
            "fixed": section.fixed,
            "attack": inputs if robust else None,
        },
        "worst": {
            "ball": ball(worst.radius),
            "threat": evaluated.threat if robust else None,
            "steps": worst_steps,
            "restarts": restarts,
            "input_step_size": worst.input_step_size,
            "weight_step_size": worst.weight_step_size,
            "chunk": config.evaluation.chunk or None,
        },
    }


def _measure(
    subject: Subject,
    examples: Examples,
    reference: np.ndarray,
    measure: Measure,
    settings: Mapping[str, Any],
    tell: Callable[[int], None],
) -> dict[str, Any]:
    config = subject.run.config
    with jax.default_matmul_precision(config.evaluation.matmul_precision):
        found = measure(
            subject.apply_fn,
            subject.params,
            np.asarray(to_float(examples.images)),
            examples.labels,
            key_for(config.flatness.seed, f"{measure.__name__}-{examples.split}"),
            reference=reference,
            batch_size=config.evaluation.batch_size,
            mesh=subject.run.mesh,
            on_batch=tell,
            **settings,
        )
    count = found.reference_losses.size
    interval = flatness.interval(found)
    from_draws, from_examples = found.variances
    values = {
        "flatness": {
            "value": found.value,
            "standard_error": found.standard_error,
            "examples": count,
            "interval": [interval.low, interval.high],
            "level": interval.level,
            "standard_error_of_draws": math.sqrt(from_draws),
            "standard_error_of_examples": math.sqrt(from_examples),
        },
        "reference": estimate(found.reference_losses),
        "perturbed": estimate(found.samples.mean(0)),
    }
    if len(found.samples) > 1:
        values["std"] = {"value": found.std, "standard_error": None, "examples": count}
    return {
        "values": values,
        "per_example": {
            "reference": found.reference_losses.tolist(),
            # Draw by draw, for intervals of differences; float32 is what was computed.
            "perturbed": [[float(f"{v:.7g}") for v in draw] for draw in found.samples],
            "share_draws": found.batch_size,
        },
    }
