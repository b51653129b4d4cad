"""Records: one JSON file per measure, its protocol beside its values.

Tables and figures are pure functions of records and of the metrics of training
(`rfm.reporting.metrics`), so a report can be made on any machine, without the model, the
data set or a device. A record looks like this, in
``records/00000390/evaluation-test.json``::

    {"schema": 1, "kind": "evaluation", "name": "evaluation-test", "run": "at",
     "step": 390, "epoch": 10.0, "checkpoint": "final", "split": "test",
     "values": {"rerr": {"value": 0.61, "standard_error": 0.015, "examples": 1000}},
     "protocol": {"attack": {...}, "seed": 0, "dtype": "float32", ...}, "seconds": 12.3}

The reader is strict about what it uses and indifferent to what it does not know:
unknown fields are skipped, so that later versions can add some. A number that is
missing, null or not finite becomes ``None`` and is shown as an open cell.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rfm.errors import UserError
from rfm.flatness import SpectralDensity

SCHEMA = 1
"""The newest layout of records that this version reads."""

ELSEWHERE = MappingProxyType({"exported": "an exported model", "imported": "imported weights"})
"""Checkpoints that were not trained in the run's folder, by `Record.checkpoint`, in words."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A mean over examples; errors are fractions in [0, 1], losses are in nats.

    Attributes:
      value: the mean, or None where there is none (no example, not finite).
      standard_error: of the mean, or None if unknown.
      examples: how many examples it is a mean of, or None if not said.
      interval: a bootstrap interval, or None.
      errors: the parts of the standard error from weight draws and from examples, or None.
    """

    value: float | None
    standard_error: float | None = None
    examples: int | None = None
    interval: tuple[float, float] | None = None
    errors: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class AdversarialExamples:
    """A few attacked images to look at, in the order of the data set.

    Attributes:
      labels: the true class of each.
      clean_predictions: what the model says of the clean images.
      predictions: what it says of the adversarial ones.
      images: clean images, 0 to 255.
      adversarial_images: adversarial images in [0, 1].
      class_names: names of the classes, or () where the record has none.
    """

    labels: tuple[int, ...]
    clean_predictions: tuple[int, ...]
    predictions: tuple[int, ...]
    images: UInt8[np.ndarray, "n h w c"]
    adversarial_images: Float[np.ndarray, "n h w c"]
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lists = (self.labels, self.clean_predictions, self.predictions, self.images)
        if len({len(entries) for entries in lists}) > 1 or self.images.ndim != 4:
            raise ValueError("adversarial examples need one image and label each")
        if self.images.shape != self.adversarial_images.shape:
            raise ValueError("clean and adversarial images differ in shape")

    def name(self, label: int) -> str:
        """The name of a class, its number where it has none."""
        return self.class_names[label] if label < len(self.class_names) else str(label)


@dataclasses.dataclass(frozen=True, eq=False)
class LandscapeData:
    """Mean losses along directions, or over a plane.

    Attributes:
      steps: multiples of the directions.
      losses: one curve for each direction, or one plane.
      lengths: of each direction, or of both of a plane.
    """

    steps: Float[np.ndarray, " m"]
    losses: Float[np.ndarray, "*shape"]
    lengths: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        shape = self.losses.shape
        if len(shape) not in (2, 3) or set(shape[1:]) != {len(self.steps)}:
            raise ValueError("a landscape needs one loss for each step")


@dataclasses.dataclass(frozen=True)
class Record:
    """One measure of one checkpoint.

    Attributes:
      kind: "evaluation", "attack", "flatness", "curvature" or "landscape".
      name: "evaluation-<split>", "flatness-<average|worst>-<loss|rloss>-<split>", ...
      run: the config's name.
      step: training steps behind the weights; `epoch`: the same in epochs.
      checkpoint: how the weights were asked for, "final", "best" or a step; or one of
        `ELSEWHERE`.
      split: "test" or "train".
      snapshot: measured during training under a smaller protocol.
      variant: what is different from the checkpoint and the config, e.g. "xi-0.25" or
        "scaled-0.5"; "" for the measures of the table.
      values: what was measured; `protocol`: how; `seconds`: how long it took.
      adversarial: examples to look at, or None.
      landscape: losses along directions, or None.
      density: of the Hessian's eigenvalues, or None.
    """

    kind: str
    name: str
    run: str
    step: int
    epoch: float | None
    checkpoint: str
    split: str
    snapshot: bool
    values: Mapping[str, Value]
    protocol: Mapping[str, Any]
    seconds: float | None = None
    adversarial: AdversarialExamples | None = None
    landscape: LandscapeData | None = None
    density: SpectralDensity | None = None
    variant: str = ""

    def value(self, key: str) -> Value:
        """The value called `key`, an empty one where it was not measured."""
        return self.values.get(key, Value(None))


def finite(number: object) -> float | None:
    """`number` as a float if it is a finite number, else None."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return float(number) if math.isfinite(number) else None


def count(number: object) -> int | None:
    """`number` as an int if it is a finite number, else None."""
    number = finite(number)
    return None if number is None else int(number)


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
      UserError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(f"{path}: not a JSON file, perhaps cut short") from error


def _value(entry: Mapping[str, Any]) -> Value:
    return Value(
        value=finite(entry.get("value")),
        standard_error=finite(entry.get("standard_error")),
        examples=count(entry.get("examples")),
        interval=_pair(entry.get("interval") or ()),
        errors=_pair([entry.get(f"standard_error_of_{of}") for of in ("draws", "examples")]),
    )


def _pair(numbers: Iterable[Any]) -> tuple[float, float] | None:
    found = [number for number in map(finite, numbers) if number is not None]
    return (found[0], found[1]) if len(found) == 2 else None


def _adversarial(entry: Mapping[str, Any], class_names: Any) -> AdversarialExamples:
    return AdversarialExamples(
        labels=tuple(map(int, entry["labels"])),
        clean_predictions=tuple(map(int, entry["clean_predictions"])),
        predictions=tuple(map(int, entry["predictions"])),
        images=np.asarray(entry["images"], np.uint8),
        adversarial_images=np.asarray(entry["adversarial_images"], np.float32),
        class_names=tuple(map(str, class_names or ())),
    )


def _density(entry: Mapping[str, Any]) -> SpectralDensity:
    nodes, weights = (np.asarray(entry[name], float) for name in ("nodes", "weights"))
    if nodes.ndim != 2 or nodes.shape != weights.shape or not nodes.size:
        raise ValueError("a density needs one weight for each node")
    return SpectralDensity(nodes, weights, int(entry["dimension"]))


def _landscape(entry: Mapping[str, Any]) -> LandscapeData:
    return LandscapeData(
        steps=np.asarray(entry["steps"], float),
        losses=np.asarray(entry["losses"], float),
        lengths=tuple(tuple(map(float, lengths)) for lengths in entry["lengths"]),
    )


def read_record(path: str | os.PathLike[str]) -> Record:
    """Reads one record.

    Raises:
      UserError: the file is not JSON, not a record, or of a newer version of `rfm`.
    """
    path = Path(path)
    entry = read_json(path)
    try:
        schema = int(entry["schema"])
        protocol = dict(entry.get("protocol") or {})
        class_names = (protocol.get("data") or {}).get("class_names")
        adversarial = entry.get("adversarial")
        record = Record(
            kind=str(entry["kind"]),
            name=str(entry["name"]),
            run=str(entry.get("run") or ""),
            step=int(entry["step"]),
            epoch=finite(entry.get("epoch")),
            checkpoint=str(entry.get("checkpoint") or ""),
            split=str(entry["split"]),
            snapshot=bool(entry.get("snapshot")),
            values={str(key): _value(value) for key, value in entry["values"].items()},
            protocol=protocol,
            seconds=finite(entry.get("seconds")),
            adversarial=_adversarial(adversarial, class_names) if adversarial else None,
            density=_density(entry["density"]) if entry.get("density") else None,
            variant=str(entry.get("variant") or ""),
            landscape=_landscape(entry["landscape"]) if entry.get("landscape") else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a record of rfm ({reason})") from error
    if schema > SCHEMA:
        raise UserError(
            f"{path}: record of a newer rfm (schema {schema}, this version reads up to "
            f"{SCHEMA}); update rfm"
        )
    return record


def latest(records: Iterable[Record]) -> tuple[Record, ...]:
    """The records of the checkpoint furthest in training; no snapshots, no variants."""
    final = [record for record in records if not record.snapshot and not record.variant]
    step = max((record.step for record in final), default=0)
    return tuple(record for record in final if record.step == step)
