"""AutoAttack (Croce & Hein, 2020): four attacks in a row, each on what still stands.

The ensemble is a tuple of `Stage`s, see `rfm.attacks.ensembles`. Each stage makes one or
more passes over the examples that are still classified correctly. Survivors of all the
examples are gathered into batches of one fixed size, the last one filled up, so each
attack is compiled once, whatever falls. Whatever an attack returns is looked at again in
a clean pass: only what is in the ball, in [0, 1] and misclassified counts.

Draws go by stage, pass and example, so the result does not depend on what else stood in
a batch (a model that takes a key itself draws for a whole batch, though). Everything that
is known is in a `Progress`, a few arrays: a run that was interrupted goes on from the one
that it last reported.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from rfm import losses
from rfm.attacks import checks
from rfm.attacks._common import check_inputs, fold
from rfm.attacks.ensembles import VERSIONS, Stage, passes
from rfm.attacks.square import Square
from rfm.attacks.targets import likely_targets
from rfm.batching import batches
from rfm.types import Images, Keys, Labels, LogitsFn, Place, Threat, as_partial, example_keys

_LOOKED_AT = 32  # examples for the warnings
STANDS = -1
WAS_WRONG = -2


class Progress(NamedTuple):
    """How far an ensemble is; all on the host.

    Attributes:
      broken_by: number of the stage that broke each example, shape (n,), or `STANDS`, or
        `WAS_WRONG` if it was misclassified before any attack.
      x: the adversarial inputs, shape (n, h, w, c); the inputs themselves where none is.
      stage: number of the stage that is under way.
      part: number of its pass.
      waiting: examples that this pass has yet to attack, ascending, shape (m,).
    """

    broken_by: Int[np.ndarray, " n"]
    x: Float[np.ndarray, "n h w c"]
    stage: int
    part: int
    waiting: Int[np.ndarray, " m"]

    @property
    def stands(self) -> Bool[np.ndarray, " n"]:
        """Which examples still stand."""
        stands: np.ndarray = self.broken_by == STANDS
        return stands


class EnsembleResult(NamedTuple):
    """What an ensemble found, per example; on the host.

    Attributes:
      robust: classified correctly, also at everything that was tried, shape (n,).
      broken_by: name of the attack that broke it, shape (n,); "" if it stands, "clean" if
        it was misclassified before.
      x: the adversarial inputs, shape (n, h, w, c); the inputs where there is none.
      loss: cross-entropy at `x`, shape (n,); its mean is RLoss (AA).
      warnings: what about the model defies this evaluation, a line each.
    """

    robust: Bool[np.ndarray, " n"]
    broken_by: np.ndarray
    x: Float[np.ndarray, "n h w c"]
    loss: Float[np.ndarray, " n"]
    warnings: tuple[str, ...]


def autoattack(
    logits_fn: LogitsFn,
    x: Images | np.ndarray,
    y: Labels | np.ndarray,
    key: Keys,
    *,
    threat: Threat,
    version: str | tuple[Stage, ...] = "standard",
    batch_size: int = 128,
    place: Place = jax.device_put,
    progress: Progress | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> EnsembleResult:
    """Attacks by an ensemble; every example is attacked until it falls.

    Args:
      logits_fn: the model, evaluation mode; ideally a ``jax.tree_util.Partial``. For
        "rand" it takes a key, ``logits_fn(x, key)``.
      x: inputs (n, h, w, c) in [0, 1].
      y: labels (n,).
      key: one key, or one per example.
      threat: the ball of the named versions.
      version: "standard", "plus", "rand", or stages of your own.
      batch_size: examples at a time.
      place: puts the arrays of a batch onto devices, e.g. sharded over a mesh.
      progress: where an earlier call was interrupted.
      on_progress: called after each batch; what it is given can be stored.

    Returns:
      An `EnsembleResult`.

    Raises:
      ValueError: an unknown version, shapes do not fit, or inputs are not in [0, 1].
    """
    stages = _stages(version, threat)
    inputs, labels = np.asarray(x), np.asarray(y)
    check_inputs(jnp.asarray(inputs[:1]), jnp.asarray(labels[:1]))
    if len(inputs) != len(labels) or not (inputs.min() >= 0 and inputs.max() <= 1):
        raise ValueError(
            f"need n inputs in [0, 1] and n labels, got {len(inputs)} and {len(labels)}"
        )
    keys = example_keys(key, len(inputs))
    runner = _Runner(as_partial(logits_fn), inputs, labels, keys, stages, batch_size, place)
    state = progress or runner.begin()
    while (following := runner.advance(state)) is not None:
        state = following
        on_progress(state)
    return runner.result(state)


@dataclasses.dataclass(frozen=True)
class _Runner:
    logits_fn: jax.tree_util.Partial
    x: np.ndarray
    y: np.ndarray
    keys: Key[Array, " n"]
    stages: tuple[Stage, ...]
    batch_size: int
    place: Place

    def begin(self) -> Progress:
        """Which examples stand before any attack."""
        wrong, _ = self.look(self.x)
        broken_by = np.where(wrong, WAS_WRONG, STANDS).astype(np.int32)
        return Progress(broken_by, self.x.copy(), 0, 0, np.flatnonzero(~wrong))

    def advance(self, progress: Progress) -> Progress | None:
        """One batch further; None if nothing is left to do."""
        while progress.stage < len(self.stages):
            stage = self.stages[progress.stage]
            if len(progress.waiting):
                return self.attack_batch(stage, progress)
            if progress.part + 1 < self.passes(stage):
                progress = self.enter(progress, progress.stage, progress.part + 1)
            else:
                progress = self.enter(progress, progress.stage + 1, 0)
            if not progress.stands.any():
                break
        return None

    def enter(self, progress: Progress, stage: int, part: int) -> Progress:
        waiting = np.flatnonzero(progress.stands)
        return progress._replace(stage=stage, part=part, waiting=waiting)

    def passes(self, stage: Stage) -> int:
        return passes(stage, self.classes)

    @functools.cached_property
    def classes(self) -> int:
        one = jnp.asarray(self.x[:1])
        arguments = (one, self.keys[0]) if self.random else (one,)
        return int(jax.eval_shape(self.logits_fn, *arguments).shape[-1])

    @property
    def random(self) -> bool:
        """Does the model take a key?"""
        return any(getattr(stage.attack, "draws", 0) for stage in self.stages)

    def attack_batch(self, stage: Stage, progress: Progress) -> Progress:
        """One batch of a pass."""
        rows, rest = np.split(progress.waiting, [self.batch_size])
        batch = next(iter(batches(len(rows), self.batch_size)))
        filled = rows[batch.indices]
        keys = fold(fold(self.keys[filled], progress.stage), progress.part)
        x, y, keys = self.place((self.x[filled], self.y[filled], keys))
        more = {}
        if stage.targeted:
            more["targets"] = likely_targets(self.logits_fn, x, y)[progress.part]
        found = stage.attack(self.logits_fn, x, y, keys, **more)
        wrong, _ = _look(self.logits_fn, found.x, y, keys[0], self.random)
        broken = np.asarray(wrong & _is_allowed(stage.attack.threat, x, found.x))[: len(rows)]
        fallen = rows[broken]
        broken_by, adversarial = progress.broken_by.copy(), progress.x.copy()
        broken_by[fallen] = progress.stage
        adversarial[fallen] = np.asarray(found.x)[: len(rows)][broken]
        return progress._replace(broken_by=broken_by, x=adversarial, waiting=rest)

    def look(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of all examples are misclassified at `x`, and the cross-entropy there."""
        done = []
        for batch in batches(len(x), self.batch_size):
            rows = batch.indices
            images, labels, keys = self.place((x[rows], self.y[rows], self.keys[rows]))
            wrong, loss = _look(self.logits_fn, images, labels, keys[0], self.random)
            done.append((np.asarray(wrong)[batch.valid], np.asarray(loss)[batch.valid]))
        wrongs, found = zip(*done, strict=True)
        return np.concatenate(wrongs), np.concatenate(found)

    def result(self, progress: Progress) -> EnsembleResult:
        names = {STANDS: "", WAS_WRONG: "clean"}
        names.update({i: stage.name for i, stage in enumerate(self.stages)})
        _, loss = self.look(progress.x)
        return EnsembleResult(
            robust=progress.stands,
            broken_by=np.array([names[int(i)] for i in progress.broken_by]),
            x=progress.x,
            loss=loss,
            warnings=tuple(self.warnings(progress)),
        )

    def warnings(self, progress: Progress) -> Iterator[str]:
        """What the original warns of, from a few examples and from who broke what."""
        few = np.flatnonzero(progress.broken_by != WAS_WRONG)[:_LOOKED_AT]
        found: list[str | None] = []
        if len(few):
            x, y = jnp.asarray(self.x[few]), jnp.asarray(self.y[few])
            outputs = self.logits_fn(x, self.keys[0]) if self.random else self.logits_fn(x)
            found.append(checks.outputs_are_probabilities(outputs))
        if len(few) and not self.random:
            found.append(checks.outputs_change(self.logits_fn, x))
            found.append(checks.gradients_are_zero(self.logits_fn, x, y))
        for number, stage in enumerate(self.stages):
            if isinstance(stage.attack, Square) and number == len(self.stages) - 1 and number:
                found.append(checks.square_is_better(progress.broken_by, number))
        yield from filter(None, found)


def _stages(version: str | tuple[Stage, ...], threat: Threat) -> tuple[Stage, ...]:
    if not isinstance(version, str):
        takes_key = {bool(getattr(stage.attack, "draws", 0)) for stage in version}
        if len(takes_key) != 1 or (True in takes_key and any(s.targeted for s in version)):
            raise ValueError("stages must all be for models that take a key, or all for others")
        return version
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {', '.join(VERSIONS)}, got {version!r}")
    return VERSIONS[version](threat)


@functools.partial(jax.jit, static_argnums=4)
def _look(
    logits_fn: LogitsFn, x: Images, y: Labels, key: Key[Array, ""], random: bool
) -> tuple[Array, Array]:
    """Is it misclassified, and its cross-entropy, in a clean pass."""
    logits = logits_fn(x, key) if random else logits_fn(x)  # type: ignore[call-arg]
    return losses.is_misclassified(logits, y), losses.cross_entropy(logits, y)


@functools.partial(jax.jit, static_argnums=0)
def _is_allowed(threat: Threat, x: Images, found: Images) -> Array:
    """Is it in the ball and in the box? (x + delta is rounded to the precision of x.)"""
    in_ball = threat.norm(found - x) <= threat.epsilon * (1 + 1e-5) + 1e-6
    return in_ball & ((found >= 0) & (found <= 1)).reshape(len(found), -1).all(1)
