"""Clean and robust error and loss, per example.

Err is the share of misclassified examples and Loss their mean cross-entropy. RErr is
the share that is misclassified or successfully attacked, RLoss the mean cross-entropy
at the worst adversarial example found (Section F of the supplement). Values are kept
per example, so that any split (Fig. G: by the clean prediction) can be made later.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt8

from rfm import losses
from rfm.attacks import PGD
from rfm.batching import batches
from rfm.data.augment import to_float
from rfm.devices import fetch, shard
from rfm.flatness.uncertainty import mean_interval
from rfm.types import Keys, LogitsFn, example_keys


class Clean(NamedTuple):
    """Per example: cross-entropy (n,), predicted class (n,), is it correct (n,)."""

    loss: Float[np.ndarray, " n"]
    prediction: Int[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"]


class Attacked(NamedTuple):
    """Per example: worst cross-entropy (n,), did it withstand (n,), the worst input."""

    loss: Float[np.ndarray, " n"]
    robust: Bool[np.ndarray, " n"]
    x: Float[np.ndarray, "m h w c"]


def clean(
    logits_fn: LogitsFn,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    *,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Clean:
    """Loss and prediction at the inputs themselves, for any number of examples."""
    done: list[Clean] = []
    for batch in batches(len(labels), batch_size):
        placed = shard((images[batch.indices], labels[batch.indices]), mesh)
        found = fetch(_clean(logits_fn, *placed))
        done.append(Clean(*(v[batch.valid] for v in found)))
        on_batch(sum(len(c.loss) for c in done))
    return Clean(*map(np.concatenate, zip(*done, strict=True)))


def attacked(
    logits_fn: LogitsFn,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    key: Keys,
    *,
    attack: PGD,
    keep: int = 0,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Attacked:
    """Attacks every example; keys go by example, so batches do not matter.

    An example withstands if it is classified correctly and no iterate of any restart
    was misclassified. The adversarial inputs of the first `keep` examples are returned.
    """
    keys = example_keys(key, len(labels))
    done: list[Attacked] = []
    for batch in batches(len(labels), batch_size):
        rows = batch.indices
        x, y, placed_keys = shard(
            (np.asarray(to_float(images[rows])), labels[rows], keys[rows]), mesh
        )
        found = attack(logits_fn, x, y, placed_keys)
        correct = _clean(logits_fn, *shard((images[rows], labels[rows]), mesh))[2]
        room = max(keep - sum(len(a.x) for a in done), 0)
        loss, success, first, correct = fetch((found.loss, found.success, found.x[:room], correct))
        robust = correct & ~success
        done.append(Attacked(loss[batch.valid], robust[batch.valid], first[batch.valid[:room]]))
        on_batch(sum(len(a.loss) for a in done))
    return Attacked(*map(np.concatenate, zip(*done, strict=True)))


def estimate(values: np.ndarray) -> dict[str, Any]:
    """Mean over examples as records have it: with its standard error and a bootstrap interval."""
    n = int(values.size)
    values = values.astype(np.float64)
    found: dict[str, Any] = {
        "value": float(values.mean()) if n else None,
        "standard_error": float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        "examples": n,
    }
    if n > 1 and np.isfinite(values).all():
        interval = mean_interval(values)
        found |= {"interval": [interval.low, interval.high], "level": interval.level}
    return found


@jax.jit
def _clean(logits_fn: LogitsFn, images: Array, labels: Array) -> tuple[Array, Array, Array]:
    logits = logits_fn(to_float(images))
    return (
        losses.cross_entropy(logits, labels),
        jnp.argmax(logits, -1),
        ~losses.is_misclassified(logits, labels),
    )
