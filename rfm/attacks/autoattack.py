"""AutoAttack (Croce & Hein, 2020): four attacks in a row, each on what still stands.

The ensemble is a tuple of `Stage`s, see `rfm.attacks.ensembles`. Each stage makes one or
more passes over the examples that are still classified correctly. What a stage has to do
is a queue of pairs of pass and example, pass by pass. Batches of a few fixed sizes
take the next pairs of all the examples that stand: they may hold the end of one pass and
the beginning of the next, so few rows are ever padding, and each attack is compiled for
these sizes at most, whatever falls. Of an example that several passes in one batch break, the first
counts, as if they had come one after the other. Whatever an attack returns is looked at
again in a clean pass: only what is in the ball, in [0, 1] and misclassified counts.

Draws go by stage, pass and example, so the result does not depend on what else stood in
a batch (a model that takes a key itself draws for a whole batch, though). Everything that
is known is in a `Progress`, a few arrays: a run that was interrupted goes on from the one
that it last reported.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from rfm.attacks import checks
from rfm.attacks._common import fold
from rfm.attacks.ensembles import VERSIONS, Stage, passes
from rfm.attacks.square import Square
from rfm.attacks.targets import likely_targets
from rfm.attacks.verdict import (
    CLEAN,
    EnsembleResult,
    check_classes,
    check_examples,
    is_allowed,
    look,
    look_at_batch,
)
from rfm.devices import fetch, shard
from rfm.types import Images, Keys, Labels, LogitsFn, Threat, as_partial, example_keys

_LOOKED_AT = 32  # examples for the warnings
_LOOK = 1 << 30  # folded into keys for clean passes: attacks fold small numbers
STANDS = -1
WAS_WRONG = -2


class Progress(NamedTuple):
    """How far an ensemble is; all on the host.

    Attributes:
      broken_by: number of the stage that broke each example, shape (n,), or `STANDS`, or
        `WAS_WRONG` if it was misclassified before any attack.
      fallen: the examples that an attack broke, in this order, shape (m,).
      x: their adversarial inputs, shape (m, h, w, c).
      stage: number of the stage that is under way.
      tried: of its pairs of pass p and example i, number ``p * n + i``, all below this one
        are done.
    """

    broken_by: Int[np.ndarray, " n"]
    fallen: Int[np.ndarray, " m"]
    x: Float[np.ndarray, "m h w c"]
    stage: int
    tried: int

    @property
    def stands(self) -> Bool[np.ndarray, " n"]:
        """Which examples still stand."""
        stands: np.ndarray = self.broken_by == STANDS
        return stands


def autoattack(
    logits_fn: LogitsFn,
    x: Images | np.ndarray,
    y: Labels | np.ndarray,
    key: Keys,
    *,
    threat: Threat,
    version: str | tuple[Stage, ...] = "standard",
    batch_size: int | Sequence[int] = range(16, 129, 16),
    mesh: Mesh | None = None,
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
      threat: the ball of the named versions; stages of your own have theirs.
      version: "standard", "plus", "rand", or stages of your own.
      batch_size: rows at a time; of several sizes the smallest that holds all pairs of pass
        and example that a stage has still to try, else the largest. A size is compiled when
        it is first used; later calls on the same model compile nothing that was.
      mesh: devices to cut a batch over, all axes of the mesh together; must divide every
        size.
      progress: where an earlier call was interrupted.
      on_progress: called after each batch; what it is given can be stored.

    Returns:
      An `EnsembleResult`.

    Raises:
      ValueError: an unknown version, shapes do not fit, inputs are not in [0, 1], labels are
        not classes of the model, or `progress` is of other examples.

    Example:
      >>> import jax, jax.numpy as jnp, rfm
      >>> logits_fn = lambda x: jnp.stack([0.5 + 0 * x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1)
      >>> x, y, linf = jnp.full((1, 2, 1, 1), 0.5), jnp.array([1]), rfm.threat.linf(0.3)
      >>> found = rfm.attacks.autoattack(logits_fn, x, y, jax.random.key(0), threat=linf)
      >>> print(found.robust, found.broken_by)
      [False] ['apgd-ce']
    """
    stages = _stages(version, threat)
    sizes = (batch_size,) if isinstance(batch_size, int) else tuple(batch_size)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    inputs, labels = check_examples(x, y)
    keys = example_keys(key, len(inputs))
    logits_fn = as_partial(logits_fn)
    random = any(getattr(stage.attack, "draws", 0) for stage in stages)
    arguments = (inputs[:1], keys[0]) if random else (inputs[:1],)
    classes = int(jax.eval_shape(logits_fn, *arguments).shape[-1])
    check_classes(labels, classes)
    if progress is not None and len(progress.broken_by) != len(inputs):
        raise ValueError(
            f"progress is of {len(progress.broken_by)} examples, but there are {len(inputs)}"
        )
    runner = _Runner(
        logits_fn, inputs, labels, keys, stages, sizes, mesh, random=random, classes=classes
    )
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
    sizes: tuple[int, ...]
    mesh: Mesh | None
    random: bool  # does the model take a key?
    classes: int

    def begin(self) -> Progress:
        """Which examples stand before any attack."""
        wrong, _ = self.look(self.x)
        broken_by = np.where(wrong, WAS_WRONG, STANDS).astype(np.int32)
        return Progress(broken_by, np.zeros(0, np.int32), self.x[:0], 0, 0)

    def advance(self, progress: Progress) -> Progress | None:
        """One batch further; None if nothing is left to do."""
        stands = progress.stands
        while progress.stage < len(self.stages) and stands.any():
            count = passes(self.stages[progress.stage], self.classes)
            pairs = waiting(stands, progress.tried, count, limit=max(self.sizes))
            if len(pairs):
                size = choose_size(len(pairs), self.sizes)
                return self.attack(progress, pairs[:size], size)
            progress = progress._replace(stage=progress.stage + 1, tried=0)
        return None

    def attack(self, progress: Progress, pairs: Int[np.ndarray, " m"], size: int) -> Progress:
        """One batch of a stage, filled up to `size` rows."""
        stage = self.stages[progress.stage]
        filled = pairs[np.minimum(np.arange(size), len(pairs) - 1)]
        part, example = np.divmod(filled, len(self.x))
        keys = _keys(self.keys[example], progress.stage, part)
        x, y, keys, part = shard((self.x[example], self.y[example], keys, part), self.mesh)
        more = {}
        if stage.targeted:
            more["targets"] = _targets(self.logits_fn, x, y, part)
        found = stage.attack(self.logits_fn, x, y, keys, **more)
        wrong, _ = look_at_batch(self.logits_fn, found.x, y, self.look_key(keys[0]))
        counts = wrong & is_allowed(stage.attack.threat, x, found.x)
        broken, adversarial = (v[: len(pairs)] for v in fetch((counts, found.x)))
        # An example may be there several times: its first pass counts.
        fallen, first = np.unique(example[: len(pairs)][broken], return_index=True)
        broken_by = progress.broken_by.copy()
        broken_by[fallen] = progress.stage
        return progress._replace(
            broken_by=broken_by,
            fallen=np.concatenate([progress.fallen, fallen.astype(np.int32)]),
            x=np.concatenate([progress.x, adversarial[broken][first]]),
            tried=int(pairs[-1]) + 1,
        )

    def look(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return look(
            self.logits_fn,
            x,
            y=self.y,
            batch_size=max(self.sizes),
            mesh=self.mesh,
            keys=fold(self.keys, _LOOK) if self.random else None,
        )

    def look_key(self, key: Key[Array, ""]) -> Key[Array, ""] | None:
        return jax.random.fold_in(key, _LOOK) if self.random else None

    def result(self, progress: Progress) -> EnsembleResult:
        names = {STANDS: "", WAS_WRONG: CLEAN}
        names.update({i: stage.name for i, stage in enumerate(self.stages)})
        x = self.x.copy()
        x[progress.fallen] = progress.x
        wrong, loss = self.look(x)
        return EnsembleResult(
            robust=progress.stands,
            broken_by=np.array([names[int(i)] for i in progress.broken_by]),
            x=x,
            loss=loss,
            warnings=tuple(self.warnings(progress, progress.stands | wrong)),
        )

    def warnings(self, progress: Progress, holds: Bool[np.ndarray, " n"]) -> Iterator[str]:
        """What the original warns of, and adversarial examples that a last look does not find."""
        if not holds.all():
            yield (
                f"{(~holds).sum()} adversarial examples are classified correctly when looked at"
                " again: the model is random, or rounding decides"
            )
        few = np.flatnonzero(progress.broken_by != WAS_WRONG)[:_LOOKED_AT]
        found: list[str | None] = []
        if len(few):
            x, y = jnp.asarray(self.x[few]), jnp.asarray(self.y[few])
            key = self.look_key(self.keys[0])
            outputs = self.logits_fn(x) if key is None else self.logits_fn(x, key)
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
        if not version or any(stage.name in ("", CLEAN) for stage in version):
            raise ValueError("need at least one stage, none of them called '' or 'clean'")
        takes_key = {bool(getattr(stage.attack, "draws", 0)) for stage in version}
        if len(takes_key) != 1 or (True in takes_key and any(s.targeted for s in version)):
            raise ValueError("stages must all be for models that take a key, or all for others")
        return version
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {', '.join(VERSIONS)}, got {version!r}")
    return VERSIONS[version](threat)


def waiting(
    stands: Bool[np.ndarray, " n"], tried: int, passes: int, *, limit: int
) -> Int[np.ndarray, " m"]:
    """The next pairs of pass and example that stands, at most `limit` numbers, ascending."""
    n, standing = len(stands), np.flatnonzero(stands)
    begin = tried // n * len(standing) + int(np.searchsorted(standing, tried % n))
    numbers = np.arange(begin, min(begin + limit, passes * len(standing)))
    part, index = np.divmod(numbers, len(standing))
    pairs: np.ndarray = part * n + standing[index]
    return pairs


def choose_size(rows: int, sizes: Sequence[int]) -> int:
    """The smallest size that holds so many rows, or the largest."""
    return min((size for size in sizes if size >= rows), default=max(sizes))


@jax.jit
def _keys(
    keys: Key[Array, " m"], stage: int | Array, part: Int[np.ndarray, " m"]
) -> Key[Array, " m"]:
    return jax.vmap(jax.random.fold_in)(fold(keys, stage), part)


@jax.jit
def _targets(logits_fn: LogitsFn, x: Images, y: Labels, part: Int[Array, " m"]) -> Labels:
    """The class that each row is pushed to: the most likely wrong one in pass 0."""
    return likely_targets(logits_fn, x, y)[part, jnp.arange(len(part))]
