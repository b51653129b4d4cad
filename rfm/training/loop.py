"""The loop: dispatches, metrics, validation and checkpoints of one run.

Order matters for being killed at any instant: metrics of a step are on disk before its
checkpoint is, a checkpoint is complete or absent, and what is beyond the newest
checkpoint is cut off and computed again on restart, with the same result.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rfm import processes
from rfm import workdir as workdirs
from rfm.attacks import PGD
from rfm.data.splits import validation
from rfm.devices import fetch, replicate
from rfm.evaluation.robustness import attacked, clean
from rfm.progress import Progress, silent
from rfm.training.axes import attack
from rfm.training.build import Run
from rfm.training.checkpoint import Checkpoints
from rfm.training.feed import Feed, Resident, Streamed
from rfm.training.memory import Memory, memory_of
from rfm.training.metrics import MetricsWriter
from rfm.training.state import TrainState
from rfm.types import bind

_SAVE_EVERY_SECONDS = 60.0


class NotFinite(ArithmeticError):
    """The loss became infinite or not a number; says at which step."""


class Interrupted(Exception):
    """Training was asked to stop; its state is saved."""


def train(
    run: Run,
    workdir: Path,
    *,
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda line: None,
    should_stop: Callable[[], bool] = lambda: False,
    on_memory: Callable[[Memory | None], None] | None = None,
) -> TrainState:
    """Trains to the end, from the newest checkpoint in `workdir` if there is one.

    Args:
      run: what to train, from `rfm.training.build.build`.
      workdir: where checkpoints and metrics go.
      progress: is told the steps done, with the loss and robust error of training.
      warn: is told of damaged checkpoints, and of records that are set aside.
      should_stop: asked after each dispatch; if true, saves and raises `Interrupted`. All
        processes must be given the same answer.
      on_memory: is told what the compiled step needs, before the first one runs.

    Returns:
      The final state.

    Raises:
      UserError: the workdir belongs to another config, another process trains in it, no
        checkpoint is whole, or there is no room for one.
      NotFinite: the loss is not finite; the last good state is kept as a checkpoint.
      Interrupted: `should_stop` said so.
    """
    workdirs.check(workdir, run.config.to_dict())
    # What is wrong with a config shows here at the latest, before a workdir is claimed.
    validate, state = _validator(run), run.initial_state()
    is_new = workdirs.read_config(workdir) is None
    extra = run.extra() if is_new else None
    workdirs.claim(workdir, run.config.to_dict())
    config = run.config.train
    snapshot_steps = config.snapshot_every * run.steps_per_epoch
    with (
        workdirs.locked(workdir),
        Checkpoints(workdir / "checkpoints", snapshot_steps=snapshot_steps) as checkpoints,
    ):
        restored = checkpoints.restore_latest(state, warn)
        if restored is None:
            checkpoints.save(0, state)
        else:
            state = restored
        step = saved = int(state.step)
        if step >= run.total_steps:
            return state
        if place := workdirs.set_aside(workdir, step):
            warn(f"training goes on from step {step}; records of later steps are in {place} now")
        feed: Feed = (
            Streamed(run, step) if run.config.data.stream else Resident(run, extra or run.extra())
        )

        def following(step: int) -> int:
            """Steps of the next dispatch: they end at fixed ones, wherever a run was resumed."""
            return min(feed.longest, run.steps_per_epoch - step % run.steps_per_epoch)

        data = feed.take(following(step))
        key = replicate(run.key("train"), run.mesh)
        if on_memory is not None:
            on_memory(memory_of(feed.dispatch, state, data, key))
        writer, last_save = MetricsWriter(workdir, step=step), time.monotonic()
        try:
            while step < run.total_steps:
                count = following(step)
                state, metrics = feed.dispatch(state, data, key, jnp.int32(count))
                if step + count < run.total_steps:  # while the devices work
                    data = feed.take(following(step + count))
                values = {name: found[:count] for name, found in fetch(metrics).items()}
                _check_finite(values["loss"], step, saved)
                learning_rate = float(run.schedule(step))
                step += count
                means = {k: float(v.mean(dtype=np.float64)) for k, v in values.items()}
                epoch = step / run.steps_per_epoch
                snapshot = step % snapshot_steps == 0 or step == run.total_steps
                stop = should_stop()
                is_time = time.monotonic() - last_save > _SAVE_EVERY_SECONDS
                due = snapshot or stop or bool(processes.largest(is_time))
                if due and not _all_finite(state):
                    raise NotFinite(_not_finite("parameters are", step, saved))
                writer.write("train", step, epoch, {**means, "learning_rate": learning_rate})
                if snapshot:
                    writer.write("validation", step, epoch, validate(state, step))
                if due:
                    checkpoints.save(step, state)
                    saved, last_save = step, time.monotonic()
                progress("train", step, run.total_steps, {**means, "epoch": epoch})
                if stop and step < run.total_steps:
                    raise Interrupted(f"stopped at step {step} of {run.total_steps}; state saved")
            checkpoints.finish()
        except (NotFinite, Interrupted):  # all processes have it
            checkpoints.finish()
            raise
        finally:
            writer.close()
    return state


def _validator(run: Run) -> Callable[[TrainState, int], dict[str, float]]:
    """Clean and robust values on the held-out examples (Section F: the last 500 of test)."""
    section = run.config.validation
    examples = validation(run.dataset, section.examples)
    settings: PGD = attack(section, "config.validation")
    mesh = run.mesh
    batch_size = run.config.train.batch_size

    def validate(state: TrainState, step: int) -> dict[str, float]:
        params, batch_stats = run.evaluated(state)
        logits_fn = bind(run.apply_fn(batch_stats), params)
        key = jax.random.fold_in(run.key("validation"), step)
        images, labels = examples.images, examples.labels
        natural = clean(logits_fn, images, labels, batch_size=batch_size, mesh=mesh)
        worst = attacked(
            logits_fn, images, labels, key, attack=settings, batch_size=batch_size, mesh=mesh
        )
        return {
            "loss": float(natural.loss.mean(dtype=np.float64)),
            "err": float(1 - natural.correct.mean()),
            "rloss": float(worst.loss.mean(dtype=np.float64)),
            "rerr": float(1 - worst.robust.mean()),
            "examples": len(labels),
        }

    return validate


def _check_finite(loss: np.ndarray, first: int, saved: int) -> None:
    if not math.isfinite(float(loss.sum())):
        step = first + int(np.argmin(np.isfinite(loss))) + 1
        raise NotFinite(_not_finite("training loss is", step, saved))


@jax.jit
def _all_finite(state: TrainState) -> Array:
    """No state is saved that the next step could not go on from."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]
    return jnp.stack(finite).all()


def _not_finite(what: str, step: int, saved: int) -> str:
    return (
        f"the {what} not finite at step {step}; the state of step {saved} is kept as the newest"
        " checkpoint. Try a lower learning rate"
    )
