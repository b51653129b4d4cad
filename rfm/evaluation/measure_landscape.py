"""The records ``landscape-KIND-LOSS-test`` and ``surface-LOSS-test`` (Section C).

Relative to filters (``config.flatness.per``) names end in ``-filter``, so that both stay.

Kinds are "random" directions (the mean over them counts), "adversarial" ones (the
maximum; each loss has its own) and the "hessian" eigenvector of lambda_max of Loss. A record
holds the mean loss at every step of every direction, and how long the directions are.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from rfm import flatness
from rfm.data.augment import to_float
from rfm.data.splits import Examples, evaluation
from rfm.evaluation import records
from rfm.evaluation.measure_curvature import LEAVES
from rfm.evaluation.robustness import estimate
from rfm.evaluation.tasks import Subject, Task, Tell, key_for
from rfm.flatness import Landscape
from rfm.perturb import RelativeBall
from rfm.training.axes import attack
from rfm.types import Params

KINDS = ("random", "adversarial", "hessian")
LOSSES = ("rloss", "loss")


def landscape_task(subject: Subject, kind: str, loss: str) -> Task:
    """The loss along directions of one kind.

    Args:
      subject: what is measured.
      kind: one of `KINDS`, or "surface": the plane of two random directions.
      loss: "rloss" or "loss".
    """
    config, section = subject.run.config, subject.run.config.landscape
    adversarial = kind == "adversarial"
    length = section.adversarial_length if adversarial else section.random_length
    ball = RelativeBall(length, per=config.flatness.per)
    evaluated = attack(config.evaluation, "config.evaluation")
    settings = dataclasses.replace(evaluated, steps=section.attack_steps, restarts=1)
    count = min(section.examples, len(subject.run.dataset.test_labels))
    number = {"hessian": 1, "surface": 2}.get(kind, section.directions)
    steps = section.surface_steps if kind == "surface" else section.steps
    protocol = {
        "examples": {"split": "test", "first": 0, "count": count},
        "batch_size": config.evaluation.batch_size,
        "seed": section.seed,
        "ball": records.describe(ball),
        "directions": number,
        "steps": steps,
        "attack": records.describe_attack(settings if loss == "rloss" else None),
    }
    if adversarial:
        protocol["worst"] = dict(config.flatness.worst)
    if kind == "hessian":
        protocol["curvature"] = {k: config.curvature[k] for k in ("leaves", "products")}
    name = f"surface-{loss}-test" if kind == "surface" else f"landscape-{kind}-{loss}-test"
    name += "" if ball.per == "layer" else f"-{ball.per}"
    record = subject.record("landscape", name, "test", protocol)
    compute = functools.partial(
        _measure,
        subject,
        evaluation(subject.run.dataset, "test", count),
        kind,
        ball,
        number,
        np.linspace(-1, 1, steps),
        settings if loss == "rloss" else None,
    )
    points = steps**2 if kind == "surface" else number * steps
    return Task({**record, "case": kind, "loss": loss}, compute, points)


def _measure(
    subject: Subject,
    examples: Examples,
    kind: str,
    ball: RelativeBall,
    number: int,
    steps: np.ndarray,
    settings: Any,
    tell: Tell,
) -> dict[str, Any]:
    config = subject.run.config
    x, y = np.asarray(to_float(examples.images)), examples.labels
    key = key_for(config.landscape.seed, "landscape")
    options: dict[str, Any] = {
        "attack": settings,
        "steps": steps,
        "batch_size": config.evaluation.batch_size,
        "mesh": subject.run.mesh,
    }
    with jax.default_matmul_precision(config.evaluation.matmul_precision):
        directions = _directions(subject, x, y, kind, ball, number, settings)
        model = (subject.apply_fn, subject.params)
        if kind == "surface":
            pair = directions[0], directions[1]
            paths = [flatness.surface(*model, pair, x, y, key, **options, on_step=tell)]
        else:
            paths = []
            for index, direction in enumerate(directions):
                after = functools.partial(_tell_later, tell, index * len(steps))
                path = flatness.landscape(*model, direction, x, y, key, **options, on_step=after)
                paths.append(path)
    return _results(paths, kind)


def _tell_later(tell: Tell, before: int, done: int) -> None:
    tell(before + done)


def _directions(
    subject: Subject,
    x: np.ndarray,
    y: np.ndarray,
    kind: str,
    ball: RelativeBall,
    number: int,
    settings: Any,
) -> list[Params]:
    """Directions of the kind, rescaled to the ball's radius in every layer."""
    config, params = subject.run.config, subject.params
    key = key_for(config.landscape.seed, f"landscape-{kind}")
    if kind in ("random", "surface"):
        keys = jax.random.split(key, number)
        return [ball.random_direction(one, params) for one in keys]
    size = config.evaluation.batch_size
    if kind == "hessian":
        found = flatness.extreme_eigenvalues(
            subject.apply_fn,
            params,
            x,
            y,
            key,
            leaves=LEAVES[config.curvature.leaves],
            products=config.curvature.products,
            batch_size=size,
            mesh=subject.run.mesh,
        )
        return [ball.direction(found.largest.vector, params)]
    worst = config.flatness.worst
    directions = flatness.adversarial_directions(
        subject.apply_fn,
        params,
        x,
        y,
        key,
        ball=dataclasses.replace(ball, radius=worst.radius),
        threat=None if settings is None else settings.threat,
        steps=worst.steps,
        restarts=number,
        input_step_size=worst.input_step_size,
        weight_step_size=worst.weight_step_size,
        chunk=config.evaluation.chunk or None,
        mesh=subject.run.mesh,
    )
    return [ball.direction(direction, params) for direction in directions]


def _results(paths: list[Landscape], kind: str) -> dict[str, Any]:
    middle = int(np.argmin(np.abs(paths[0].steps)))
    at = paths[0].losses[middle, middle] if kind == "surface" else paths[0].losses[middle]
    return {
        "values": {"middle": estimate(at)},
        "per_example": {},
        "landscape": {
            "steps": paths[0].steps.tolist(),
            "losses": [path.mean.tolist() for path in paths],
            "lengths": [list(path.lengths) for path in paths],
        },
    }
