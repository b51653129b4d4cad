"""The records ``evaluation-test`` and ``evaluation-train``: Err, Loss, RErr and RLoss.

Examples as in Section F of the supplement: clean values on the whole test set and the
first 10,000 training examples, robust ones on the first 1000 of each.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rfm.attacks import PGD
from rfm.data.splits import Examples, evaluation
from rfm.devices import fetch
from rfm.evaluation import records
from rfm.evaluation.robustness import Attacked, Clean, attacked, clean, estimate
from rfm.evaluation.tasks import Subject, Task, key_for
from rfm.training.axes import attack

SHOWN = 8  # adversarial examples that are kept to look at


def evaluation_tasks(subject: Subject) -> list[Task]:
    """Err, Loss, RErr and RLoss on test and on training examples."""
    run, section = subject.run, subject.run.config.evaluation
    settings, count = attack(section, "config.evaluation"), section.examples
    if subject.snapshot:
        small = run.config.snapshots
        settings = dataclasses.replace(settings, steps=small.steps, restarts=small.restarts)
        count = small.examples
    tasks = []
    for split in ("test", "train"):
        clean_count = count
        if not subject.snapshot and split == "test":
            clean_count = len(run.dataset.test_labels)
        elif not subject.snapshot:
            clean_count = min(section.clean_train_examples, len(run.dataset.train_labels))
        natural = evaluation(run.dataset, split, max(clean_count, count))
        robust = evaluation(run.dataset, split, count)
        protocol = {
            "attack": records.describe_attack(settings),
            "examples": {"split": split, "first": 0, "count": count},
            "clean_examples": {"split": split, "first": 0, "count": len(natural.labels)},
            "batch_size": section.batch_size,
            "seed": section.seed,
        }
        tasks.append(
            Task(
                subject.record("evaluation", f"evaluation-{split}", split, protocol),
                functools.partial(_evaluate, subject, natural, robust, settings, split),
                count,
            )
        )
    return tasks


def _evaluate(
    subject: Subject,
    natural: Examples,
    robust: Examples,
    settings: PGD,
    split: str,
    tell: Callable[[int], None],
) -> dict[str, Any]:
    section, logits_fn = subject.run.config.evaluation, subject.logits_fn
    size, mesh = section.batch_size, subject.run.mesh
    keep = SHOWN if split == "test" and not subject.snapshot else 0
    with jax.default_matmul_precision(section.matmul_precision):
        before = clean(logits_fn, natural.images, natural.labels, batch_size=size, mesh=mesh)
        after = attacked(
            logits_fn,
            robust.images,
            robust.labels,
            key_for(section.seed, f"evaluation-{split}"),
            attack=settings,
            keep=keep,
            batch_size=size,
            mesh=mesh,
            on_batch=tell,
        )
        predictions = fetch(logits_fn(after.x)).argmax(-1) if len(after.x) else None
    found = _values(before, after)
    if predictions is not None:
        shown = len(predictions)
        found["adversarial"] = {
            "indices": robust.indices[:shown].tolist(),
            "labels": robust.labels[:shown].tolist(),
            "clean_predictions": before.prediction[:shown].tolist(),
            "predictions": predictions.tolist(),
            "images": robust.images[:shown].tolist(),
            "adversarial_images": np.round(after.x.astype(np.float64), 5).tolist(),
        }
    return found


def _values(before: Clean, after: Attacked) -> dict[str, Any]:
    n = len(after.loss)
    correct = before.correct[:n]
    return {
        "values": {
            "err": estimate(~before.correct),
            "loss": estimate(before.loss),
            "rerr": estimate(~after.robust),
            "rloss": estimate(after.loss),
            # Fig. G: by the clean prediction.
            "rerr_correct": estimate(~after.robust[correct]),
            "rloss_correct": estimate(after.loss[correct]),
            "rloss_incorrect": estimate(after.loss[~correct]),
        },
        "per_example": {
            "loss": before.loss[:n].tolist(),
            "correct": correct.tolist(),
            "rloss": after.loss.tolist(),
            "robust": after.robust.tolist(),
        },
    }
