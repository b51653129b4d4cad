"""Measuring the checkpoints of a workdir: one record after the other.

A `Task` is one record to be, with its full protocol and the function that computes it;
`carry_out` computes what is not on disk yet and writes each record at once, so that an
interrupted measurement goes on where it stopped.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
from jaxtyping import Array, Key

from rfm import processes
from rfm.devices import replicate
from rfm.errors import UserError
from rfm.evaluation import records
from rfm.evaluation.compiling import CompileTime
from rfm.models import exported, imported
from rfm.models.rescale import rescale
from rfm.progress import Progress, silent
from rfm.training.build import Run
from rfm.training.state import TrainState
from rfm.types import Params, bind


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured: a model, usually that of a run at one checkpoint.

    Attributes:
      run: whose config says how, and whose data are used.
      apply_fn: the model, evaluation mode.
      params: its parameters, those that may be perturbed.
      step: updates that they have seen.
      checkpoint: what the user called it: "final", "best" or a step; or, of a model that was not
        trained here, "exported" or "imported".
      snapshot: measured for a curve through training, by the smaller protocol.
      model: what else a record's protocol is to say of the model.
      suffix: of the names of its records, if it is a variant of the checkpoint.
    """

    run: Run
    apply_fn: jax.tree_util.Partial
    params: Params
    step: int
    checkpoint: str
    snapshot: bool = False
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    suffix: str = ""

    @classmethod
    def of_state(
        cls, run: Run, state: TrainState, checkpoint: str, *, snapshot: bool = False
    ) -> "Subject":
        """A checkpoint of the run."""
        params, batch_stats = run.evaluated(state)
        apply_fn, model = run.apply_fn(batch_stats), {"dtype": run.config.model.dtype}
        return cls(run, apply_fn, params, int(state.step), checkpoint, snapshot, model)

    @classmethod
    def of_file(cls, run: Run, path: str) -> "Subject":
        """An exported model, on the run's devices.

        Raises:
          UserError: no such model, or it does not fit the run's data.
        """
        found, dataset = exported.load(path), run.dataset
        theirs, ours = (found.image_shape, found.classes), (dataset.image_shape, dataset.classes)
        _must_fit(f"exported model {path} is", theirs, ours, dataset.name)
        about = {"exported": found.sha256, "matmul_precision": found.precision}
        apply_fn, params = replicate((found.apply_fn, found.params), run.mesh)
        return cls(run, apply_fn, params, 0, "exported", model=about)

    @classmethod
    def of_weights(cls, run: Run) -> "Subject":
        """The run's model with the weights that its config names.

        Raises:
          UserError: no such file, or it does not fit the model or the run's data.
        """
        section, dataset = run.config.model, run.dataset
        about = imported.about(section.weights)
        if about is not None:
            theirs, ours = (
                (about.image_shape, about.classes),
                (dataset.image_shape, dataset.classes),
            )
            _must_fit(f"{section.weights} is", theirs, ours, dataset.name)
        found = imported.load(section.weights, run.model, image_shape=dataset.image_shape)
        params, batch_stats = replicate(tuple(found), run.mesh)
        model = {"dtype": section.dtype, "weights": section.weights_sha256}
        if section.zoo:
            model["zoo"] = section.zoo
        return cls(run, run.apply_fn(batch_stats), params, 0, "imported", model=model)

    def rescaled(self, factor: float) -> "Subject":
        """The same function with all convolutions multiplied by `factor`; not if exported.

        Raises:
          ValueError: the architecture has no such function.
        """
        (batch_stats,) = self.apply_fn.args
        params, batch_stats = rescale(self.params, batch_stats, factor)
        return dataclasses.replace(
            self,
            apply_fn=self.run.apply_fn(batch_stats),
            params=params,
            model={**self.model, "rescaled": factor},
            suffix=f"-scaled-{factor:g}",
        )

    @property
    def epoch(self) -> float | None:
        """Of the run's training; None of a model that was not trained here."""
        elsewhere = self.checkpoint in ("exported", "imported")
        return None if elsewhere else self.step / self.run.steps_per_epoch

    @property
    def logits_fn(self) -> jax.tree_util.Partial:
        """The model as a ``LogitsFn``."""
        return bind(self.apply_fn, self.params)

    def record(self, kind: str, name: str, split: str, protocol: dict[str, Any]) -> dict[str, Any]:
        """The head of a record, without values."""
        config = self.run.config
        return {
            "kind": kind,
            "name": f"{name}{self.suffix}",
            "run": config.name,
            "step": self.step,
            "epoch": self.epoch,
            "checkpoint": self.checkpoint,
            "snapshot": self.snapshot,
            "variant": self.suffix.removeprefix("-"),
            "split": split,
            "protocol": {
                **protocol,
                "matmul_precision": config.evaluation.matmul_precision,
                **self.model,
                "data": {
                    "source": config.data.source,
                    "original_order": self.run.dataset.original_order,
                    "class_names": list(self.run.dataset.class_names),
                },
            },
        }


Fit = tuple[tuple[int, ...], int]
"""Shape of images, (height, width, channels), and number of classes."""


def _must_fit(what: str, theirs: Fit, ours: Fit, dataset: str) -> None:
    """Checks that a model is for the images and classes of a data set."""
    for title, its, wanted in zip(("images", "classes"), theirs, ours, strict=True):
        if its != wanted:
            raise UserError(
                f"{what} for {title} {its}, but {dataset} has {wanted};"
                " give the --config of its data"
            )


@dataclasses.dataclass(frozen=True)
class Task:
    """One record to be: its head, and how to get the rest.

    Attributes:
      record: the head, with the full protocol.
      compute: given a callback for examples done and numbers worth seeing, returns the
        remaining fields.
      examples: how many examples it goes through, for the progress bar.
      finish: called when the record is on disk, by the first process.
    """

    record: dict[str, Any]
    compute: Callable[["Tell"], dict[str, Any]]
    examples: int
    finish: Callable[[], None] = lambda: None


def carry_out(
    tasks: list[Task], workdir: Path, *, again: bool = False, progress: Progress = silent
) -> list[dict[str, Any]]:
    """All records of `tasks`; those on disk are taken from there unless `again`."""
    done = []
    for task in tasks:
        find = functools.partial(records.find, workdir, task.record)
        record = None if again else processes.by_first(find)
        if record is None or not {"values", "per_example"} <= record.keys():
            title = f"{task.record['name']} @ {task.record['step']}"
            start, tell = time.perf_counter(), _teller(progress, title, task.examples)
            tell(0)
            with CompileTime() as compiling:
                record = {**task.record, **task.compute(tell)}
            record["seconds"] = time.perf_counter() - start
            record["compile_seconds"] = compiling.seconds
            processes.by_first(functools.partial(_keep, workdir, record, task))
        done.append(record)
    return done


def _keep(workdir: Path, record: dict[str, Any], task: Task) -> None:
    records.write(workdir, record)
    task.finish()


class Tell(Protocol):
    """Is told the examples done, and numbers worth seeing."""

    def __call__(self, done: int, **fields: float) -> None: ...


def _teller(progress: Progress, title: str, total: int) -> Tell:
    def tell(done: int, **fields: float) -> None:
        progress(title, done, total, fields)

    return tell


def key_for(seed: int, purpose: str) -> Key[Array, ""]:
    """A key of its own for each purpose: no two measures share draws by accident."""
    key = jax.random.key(seed)
    for letter in purpose.encode():
        key = jax.random.fold_in(key, letter)
    return key
