"""What `benchmarks.scale` measures of whole runs: the training loop, and the measures of a row.

Each function is called in a process of its own, see `benchmarks.scale_parts`.
"""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from benchmarks.harness import in_turns
from benchmarks.scale_parts import Found, flags
from rfm.cli.environment import arrange


def outside(config: Mapping[str, Any], steps: int) -> Found:
    """The wall time of `rfm.training.loop.train`, and how much of it is which part.

    A dispatch is asynchronous, but the loop fetches its metrics at once. So to wait for the
    dispatch where it is called changes nothing, and tells its time from all others.

    Args:
      config: see `_run`.
      steps: to train; first it trains for one dispatch elsewhere, which compiles.
    """
    from rich.console import Console

    from rfm.cli.bars import Bars
    from rfm.training import feed, loop

    run, spans = _run(config), {"dispatch": [], "validation": [], "checkpoint": []}
    in_dispatch = min(run.config.train.steps_per_dispatch, run.steps_per_epoch)

    def timed(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            found = jax.block_until_ready(function(*arguments))
            spans[kind].append((start, time.perf_counter()))
            return found

        return call

    def making(kind: str, make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: timed(kind, make(*arguments, **options))

    store = loop.Checkpoints
    with (
        mock.patch.object(feed, "make_dispatch", making("dispatch", feed.make_dispatch)),
        mock.patch.object(loop, "_validator", making("validation", loop._validator)),
        mock.patch.object(store, "save", timed("checkpoint", store.save)),
        mock.patch.object(store, "__exit__", timed("checkpoint", store.__exit__)),
        tempfile.TemporaryDirectory() as folder,
    ):
        for name, total in (("first", in_dispatch), ("timed", steps)):
            for kind in spans:
                spans[kind].clear()
            start = time.perf_counter()
            with Bars(Console(force_terminal=True)) as bars:
                asked = dataclasses.replace(run, total_steps=total)
                loop.train(asked, Path(folder) / name, progress=bars)
            end = time.perf_counter()
    begin = spans["dispatch"][0][0]
    inside = {kind: sum(b - a for a, b in found if a >= begin) for kind, found in spans.items()}
    return {
        "steps": steps,
        "epochs": steps / run.steps_per_epoch,
        "examples": steps * run.config.train.batch_size,
        "dispatches": len(spans["dispatch"]),
        "validations": len(spans["validation"]),
        # Placing the data and the first checkpoint, once in a run whatever its length.
        "start_seconds": begin - start,
        "loop_seconds": end - begin,
        "dispatch_seconds": inside["dispatch"],
        "validation_seconds": inside["validation"],
        "checkpoint_seconds": inside["checkpoint"],  # copying, and waiting for the last one
        "flags": flags(),
    }


def measures(config: Mapping[str, Any], snapshot: bool) -> Found:
    """Seconds of every measure of `rfm run` on one batch, and how many batches a row has.

    Of fresh weights: what these measures cost does not depend on the weights. AutoAttack's cost
    does, see `autoattack`.
    """
    from rfm.evaluation.evaluate import evaluation_tasks
    from rfm.evaluation.measure_curvature import curvature_task
    from rfm.evaluation.measure_flatness import flatness_tasks
    from rfm.evaluation.tasks import Subject, carry_out

    run = _run(config)
    full, size = run.config, run.config.evaluation.batch_size
    examples = (full.snapshots if snapshot else full.evaluation).examples
    small = full.copy_and_resolve_references()
    small.evaluation.update(examples=size, clean_train_examples=size)
    small.snapshots.examples = size
    data = dataclasses.replace(
        run.dataset,
        test_images=run.dataset.test_images[:size],
        test_labels=run.dataset.test_labels[:size],
    )
    run = dataclasses.replace(run, config=small, dataset=data)
    subject = Subject.of_state(run, run.initial_state(), "final", snapshot=snapshot)
    pieces, evaluated = {}, {}
    with tempfile.TemporaryDirectory() as folder:

        def time_task(task: Any) -> Found:
            (first,) = carry_out([task], Path(folder), again=True)
            call = {first["name"]: lambda: carry_out([task], Path(folder), again=True)}
            # The first call of these turns compiles nothing any more.
            (seconds,) = in_turns(call, 1)[first["name"]]
            pieces[first["name"]] = {
                "seconds": seconds,
                "compile_seconds": first["compile_seconds"],
                "batches": math.ceil(examples / size),
            }
            return first

        for task in evaluation_tasks(subject):
            record = time_task(task)
            evaluated[record["split"]] = record
        for task in flatness_tasks(subject, evaluated):
            time_task(task)
        if snapshot and full.snapshots.products:
            time_task(curvature_task(subject, "loss"))
    return {"pieces": pieces, "times": full.train.epochs // full.train.snapshot_every}


def autoattack(config: Mapping[str, Any]) -> Found:
    """Seconds of AutoAttack on one batch of which nothing falls: the most that it can cost.

    The ball is so small that nothing falls, and the labels are the predictions.
    """
    import numpy as np

    from rfm import attacks, threat
    from rfm.data.augment import to_float
    from rfm.devices import fetch
    from rfm.evaluation.compiling import CompileTime
    from rfm.evaluation.tasks import Subject

    run = _run(config)
    size, section = run.config.evaluation.batch_size, run.config.evaluation
    logits_fn = Subject.of_state(run, run.initial_state(), "final").logits_fn
    x = np.asarray(to_float(run.dataset.test_images[:size]))

    with CompileTime() as compiling, jax.default_matmul_precision(section.matmul_precision):
        start = time.perf_counter()
        y = fetch(logits_fn(x)).argmax(-1).astype(np.int32)
        ball, key = threat.linf(1e-6), jax.random.key(0)
        options = {"threat": ball, "batch_size": size, "mesh": run.mesh}
        found = attacks.autoattack(logits_fn, x, y, key, **options)
        spent = time.perf_counter() - start
    if not found.robust.all():
        raise ArithmeticError("something fell: the time would say too little")
    # One call, since it is long: what compiling took is taken off.
    seconds = spent - compiling.seconds
    batches = math.ceil(section.examples / size)
    return {"seconds": seconds, "compile_seconds": compiling.seconds, "batches": batches}


def _run(config: Mapping[str, Any]) -> Any:
    """The `rfm.training.build.Run` of a config: its ``file:method``, and fields by their names."""
    from rfm.cli.config import resolve
    from rfm.training.build import build

    arrange()
    fields = dict(config)
    overrides = [f"--config.{name}={value}" for name, value in fields.items() if name != "file"]
    resolved, _ = resolve(fields["file"], None, overrides)
    return build(resolved)
