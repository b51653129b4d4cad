"""What counts as broken, and what an evaluation by several attacks reports.

Whatever an attack returns is looked at again in a clean pass. An example is broken only by
a point that is in the ball, in [0, 1] and misclassified there. The same look serves
adversarial examples that come from elsewhere, e.g. from another model or another library
(`judge`), and logits alone (`judge_logits`)::

    judge(logits_fn, x, y, {"transfer": x_adversarial}, threat=rfm.threat.linf(8 / 255))
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from rfm import losses
from rfm.attacks._common import check_inputs
from rfm.batching import batches
from rfm.devices import fetch, shard
from rfm.types import Images, Labels, LogitsFn, Threat, as_partial

CLEAN = "clean"
"""Name of what "breaks" an example that is misclassified without any attack."""


class EnsembleResult(NamedTuple):
    """What several attacks found, per example; on the host.

    Attributes:
      robust: classified correctly, also at everything that was tried, shape (n,).
      broken_by: name of the attack that broke it, shape (n,); "" if it stands, "clean" if
        it was misclassified before.
      x: the adversarial inputs, shape (n, h, w, c); the inputs where there is none. None if
        only logits were given.
      loss: cross-entropy at `x`, shape (n,); its mean is RLoss (AA).
      warnings: what about the model or the points defies this evaluation, a line each.
    """

    robust: Bool[np.ndarray, " n"]
    broken_by: np.ndarray
    x: Float[np.ndarray, "n h w c"] | None
    loss: Float[np.ndarray, " n"]
    warnings: tuple[str, ...]


def judge(
    logits_fn: LogitsFn,
    x: Images | np.ndarray,
    y: Labels | np.ndarray,
    adversarial: Mapping[str, np.ndarray],
    *,
    threat: Threat,
    batch_size: int = 128,
    mesh: Mesh | None = None,
) -> EnsembleResult:
    """Evaluates adversarial examples that were found before.

    Args:
      logits_fn: the model, evaluation mode.
      x: inputs (n, h, w, c) in [0, 1].
      y: labels (n,).
      adversarial: by the name of what made them, inputs (n, h, w, c) in the order of `x`.
        The first one that breaks an example counts.
      threat: the ball that they must be in.
      batch_size: examples at a time.
      mesh: devices to cut a batch over; see `rfm.devices`.

    Returns:
      An `EnsembleResult`. Points outside of the ball or the box break nothing; a warning
      says how many there are.

    Raises:
      ValueError: shapes do not fit, inputs are not in [0, 1], labels are not classes of
        the model, or a name is empty or "clean".
    """
    inputs, labels = check_examples(x, y)
    logits_fn = as_partial(logits_fn)
    check_classes(labels, int(jax.eval_shape(logits_fn, inputs[:1]).shape[-1]))
    _check_names(adversarial)
    look_at = functools.partial(look, logits_fn, y=labels, batch_size=batch_size, mesh=mesh)
    wrong, loss = look_at(inputs)
    tally, found, warnings = _Tally(wrong, loss), inputs.copy(), []
    for name, points in adversarial.items():
        points = np.asarray(points, inputs.dtype)
        if points.shape != inputs.shape:
            raise ValueError(f"{name} must have shape {inputs.shape}, got {points.shape}")
        allowed = np.concatenate(
            [
                np.asarray(is_allowed(threat, inputs[b.indices], points[b.indices]))[b.valid]
                for b in batches(len(inputs), batch_size)
            ]
        )
        if not allowed.all():
            warnings.append(
                f"{name}: {(~allowed).sum()} of {len(points)} points are not in the ball or not"
                " in [0, 1]; they do not count"
            )
        wrong, loss_there = look_at(points)
        takes = tally.add(name, wrong & allowed, loss_there)
        found[takes] = points[takes]
    return tally.result(found, tuple(warnings))


def judge_logits(
    clean: np.ndarray, y: Labels | np.ndarray, adversarial: Mapping[str, np.ndarray]
) -> EnsembleResult:
    """Evaluates bare logits, e.g. of a model that is not at hand.

    Args:
      clean: logits (n, k) of the inputs.
      y: labels (n,).
      adversarial: by the name of the attack, logits (n, k) of what it found; the first one
        that is misclassified counts. That the inputs were in the ball is taken on trust.

    Returns:
      An `EnsembleResult` without inputs.

    Raises:
      ValueError: shapes do not fit, labels are not classes, or a name is empty or "clean".
    """
    logits, labels = np.asarray(clean), np.asarray(y)
    check_inputs(jnp.asarray(logits), jnp.asarray(labels))
    check_classes(labels, logits.shape[-1])
    _check_names(adversarial)
    tally = _Tally(*(np.asarray(v) for v in _judge(jnp.asarray(logits), jnp.asarray(labels))))
    for name, there in adversarial.items():
        if np.shape(there) != logits.shape:
            raise ValueError(f"{name} must have shape {logits.shape}, got {np.shape(there)}")
        tally.add(name, *map(np.asarray, _judge(jnp.asarray(there), jnp.asarray(labels))))
    return tally.result(None, ())


class _Tally:
    """Who broke which example first, and the loss there."""

    def __init__(self, wrong: np.ndarray, loss: np.ndarray) -> None:
        self._broken_by = np.where(wrong, CLEAN, "").astype(object)
        self._loss = np.array(loss)

    def add(self, name: str, wrong: np.ndarray, loss: np.ndarray) -> np.ndarray:
        """Which examples fall to `name`, (n,), bool: those that are wrong and stood so far."""
        takes: np.ndarray = (self._broken_by == "") & wrong
        self._broken_by[takes], self._loss[takes] = name, loss[takes]
        return takes

    def result(self, x: np.ndarray | None, warnings: tuple[str, ...]) -> EnsembleResult:
        names = self._broken_by.astype(str)
        return EnsembleResult(names == "", names, x, self._loss, warnings)


def check_examples(
    x: Images | np.ndarray, y: Labels | np.ndarray
) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """Inputs and labels on the host; inputs in float32 at least.

    (In bfloat16 x + delta is rounded by more than a ball is allowed to be exceeded.)

    Raises:
      ValueError: shapes or types do not fit, or inputs are not in [0, 1].
    """
    inputs, labels = np.asarray(x), np.asarray(y)
    check_inputs(jnp.asarray(inputs[:1]), jnp.asarray(labels[:1]))
    inputs = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
    if len(inputs) != len(labels) or not (inputs.min() >= 0 and inputs.max() <= 1):
        raise ValueError(
            f"need n inputs in [0, 1] and n labels, got {len(inputs)} and {len(labels)}"
        )
    return inputs, labels


def check_classes(labels: Int[np.ndarray, " n"], classes: int) -> None:
    """Raises ValueError if a label is none of the classes that the logits are of."""
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels must be from 0 to {classes - 1}, the model has {classes} classes; got"
            f" {labels.min()} to {labels.max()}"
        )


def _check_names(adversarial: Mapping[str, np.ndarray]) -> None:
    for name in adversarial:
        if name in ("", CLEAN):
            raise ValueError(f"adversarial examples cannot be called {name!r}")


def look(
    logits_fn: LogitsFn,
    x: np.ndarray,
    *,
    y: np.ndarray,
    batch_size: int,
    mesh: Mesh | None = None,
    keys: Key[Array, " n"] | None = None,
) -> tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Is each example misclassified at `x`, and the cross-entropy there.

    With `keys` the model takes one, the first of each batch.
    """
    done = []
    for batch in batches(len(x), batch_size):
        rows = batch.indices
        key = None if keys is None else keys[rows[0]]
        found = fetch(look_at_batch(logits_fn, *shard((x[rows], y[rows]), mesh), key))
        done.append(tuple(v[batch.valid] for v in found))
    wrongs, found = zip(*done, strict=True)
    return np.concatenate(wrongs), np.concatenate(found)


@jax.jit
def look_at_batch(
    logits_fn: LogitsFn, x: Images, y: Labels, key: Key[Array, ""] | None
) -> tuple[Array, Array]:
    """Is it misclassified, and its cross-entropy, in a clean pass."""
    logits = logits_fn(x) if key is None else logits_fn(x, key)  # type: ignore[call-arg]
    return _judge(logits, y)


def _judge(logits: Array, y: Array) -> tuple[Array, Array]:
    return losses.is_misclassified(logits, y), losses.cross_entropy(logits, y)


@functools.partial(jax.jit, static_argnums=0)
def is_allowed(threat: Threat, x: Images, found: Images) -> Array:
    """Is it in the ball and in the box? (x + delta is rounded to float32.)"""
    in_ball = threat.norm(found - x) <= threat.epsilon * (1 + 1e-5) + 1e-6
    return in_ball & ((found >= 0) & (found <= 1)).reshape(len(found), -1).all(1)
