"""Metrics: the course of training, one JSON line at a time.

``metrics.jsonl`` holds two kinds of lines, in the order of training::

    {"kind": "train", "step": 50, "epoch": 0.5, "loss": 2.1, "error": 0.8,
     "learning_rate": 0.05}
    {"kind": "validation", "step": 390, "epoch": 5, "loss": 0.9, "err": 0.3,
     "rloss": 1.6, "rerr": 0.6, "examples": 500}

A process can be killed while it writes, so a last line that is cut short is normal and
ignored; a damaged line anywhere else is a problem that the report names. Lines of
other kinds are skipped.
"""

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rfm.errors import UserError
from rfm.reporting.records import count, finite


@dataclasses.dataclass(frozen=True)
class TrainMetrics:
    """RLoss and RErr under training's attack: means since the line before."""

    step: int
    epoch: float
    loss: float | None
    error: float | None
    learning_rate: float | None


@dataclasses.dataclass(frozen=True)
class ValidationMetrics:
    """Loss, Err, RLoss and RErr on the held-out test examples at one snapshot."""

    step: int
    epoch: float
    loss: float | None
    err: float | None
    rloss: float | None
    rerr: float | None
    examples: int | None = None


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The lines of metrics.jsonl by kind, in the order of training."""

    train: tuple[TrainMetrics, ...] = ()
    validation: tuple[ValidationMetrics, ...] = ()

    def early_stopping(self, steps: Collection[int] | None = None) -> ValidationMetrics | None:
        """The snapshot of lowest RErr, the earliest of equals: where to stop.

        Args:
          steps: only snapshots of these steps; None: all.
        """
        measured = (
            (line.rerr, position)
            for position, line in enumerate(self.validation)
            if line.rerr is not None and (steps is None or line.step in steps)
        )
        best = min(measured, default=None)
        return None if best is None else self.validation[best[1]]

    def learning_rate_drops(self) -> tuple[float, ...]:
        """Epochs after which the learning rate leaves a plateau downwards.

        Only a rate that was constant drops: a cyclic or cosine schedule, which always
        moves, has none.
        """
        rates = [
            (line.epoch, line.learning_rate)
            for line in self.train
            if line.learning_rate is not None
        ]
        return tuple(
            epoch
            for (_, before), (epoch, last), (_, now) in zip(
                rates, rates[1:], rates[2:], strict=False
            )
            if math.isclose(before, last, rel_tol=1e-3) and now < 0.999 * last
        )


def _train(line: Mapping[str, Any]) -> TrainMetrics:
    return TrainMetrics(
        step=int(line["step"]),
        epoch=float(line["epoch"]),
        loss=finite(line.get("loss")),
        error=finite(line.get("error")),
        learning_rate=finite(line.get("learning_rate")),
    )


def _validation(line: Mapping[str, Any]) -> ValidationMetrics:
    return ValidationMetrics(
        step=int(line["step"]),
        epoch=float(line["epoch"]),
        loss=finite(line.get("loss")),
        err=finite(line.get("err")),
        rloss=finite(line.get("rloss")),
        rerr=finite(line.get("rerr")),
        examples=count(line.get("examples")),
    )


def read_metrics(path: Path) -> tuple[Metrics, tuple[str, ...]]:
    """Reads metrics.jsonl; a file that is not there has no lines.

    Returns:
      The metrics, and one line of text for each damaged line that is left out.

    Raises:
      UserError: the file is there but cannot be read.
    """
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return Metrics(), ()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    train: list[TrainMetrics] = []
    validation: list[ValidationMetrics] = []
    problems: list[str] = []
    lines = content.splitlines()
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            if line["kind"] == "train":
                train.append(_train(line))
            elif line["kind"] == "validation":
                validation.append(_validation(line))
        except (KeyError, TypeError, ValueError):
            if number < len(lines) or content.endswith("\n"):
                problems.append(f"{path}: line {number} is damaged and left out")
    return Metrics(tuple(train), tuple(validation)), tuple(problems)
