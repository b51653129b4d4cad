"""The objective axis: which loss is minimised on clean and adversarial inputs?

An objective is a hashable callable that runs the network in training mode and returns
losses per example, the new batch statistics and the logits at the adversarial inputs.
Which inputs go through the network, together or apart, decides what batch
normalisation sees; each objective says so.
"""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from rfm import losses
from rfm.training import rotation
from rfm.types import Images, Labels, Logits, PerExample, TrainFn


class Outcome(NamedTuple):
    """What an objective returns: losses (n,), new statistics, adversarial logits (n, k)."""

    losses: PerExample
    batch_stats: PyTree
    logits: Logits


class Objective(Protocol):
    """Losses of a batch in training mode; `y` may be noisy labels."""

    def __call__(
        self,
        train_fn: TrainFn,
        variables: PyTree,
        x: Images,
        x_adversarial: Images,
        y: Labels,
        rngs: dict[str, Array],
    ) -> Outcome: ...


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy on the adversarial inputs alone (Madry et al., 2018).

    Clean inputs do not pass: batch statistics are those of adversarial examples.

    Attributes:
      smoothing: of the labels, see `rfm.losses.smoothed_cross_entropy`; adversaries ascend
        the loss of true labels (Section G).

    Raises:
      ValueError: `smoothing` is not in [0, 1).
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"label smoothing must be in [0, 1), got {self.smoothing}")

    def __call__(
        self,
        train_fn: TrainFn,
        variables: PyTree,
        x: Images,
        x_adversarial: Images,
        y: Labels,
        rngs: dict[str, Array],
    ) -> Outcome:
        logits, batch_stats = train_fn(variables, x_adversarial, rngs)
        return Outcome(_cross_entropy(logits, y, self.smoothing), batch_stats, logits)


@dataclasses.dataclass(frozen=True)
class Trades:
    """TRADES (Zhang et al., 2019), Eq. (13) of the supplement.

    ::

        L(f(x), y) + weight * KL(f(x) || f(x_adversarial))

    Neither side of the divergence is held fixed; the adversary that belongs to it, ascending
    the divergence, holds the first side fixed. Clean and adversarial inputs pass apart, as in
    the authors' code: each is normalised by its own batch statistics. The running statistics
    follow the clean pass, then the adversarial one (in the authors' code a clean one again).

    Attributes:
      weight: lambda (6).
      smoothing: of the labels of the first term.

    Raises:
      ValueError: `weight` is negative or `smoothing` is not in [0, 1).
    """

    weight: float
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        CrossEntropy(self.smoothing)

    def __call__(
        self,
        train_fn: TrainFn,
        variables: PyTree,
        x: Images,
        x_adversarial: Images,
        y: Labels,
        rngs: dict[str, Array],
    ) -> Outcome:
        clean, logits, batch_stats = _both(train_fn, variables, x, x_adversarial, rngs)
        divergence = losses.kl_divergence(clean, logits)
        loss = _cross_entropy(clean, y, self.smoothing) + self.weight * divergence
        return Outcome(loss, batch_stats, logits)


@dataclasses.dataclass(frozen=True)
class Mart:
    """MART (Wang et al., 2020), Eqs. (14) and (15) of the supplement.

    ::

        L_bin(f(x_adversarial), y) + weight * KL(f(x) || f(x_adversarial)) * (1 - f_y(x))

    with `rfm.losses.boosted_cross_entropy`, which is Eq. (14) to rounding; the authors' code adds
    1e-4 inside its logarithm, so that the term ends at 9.2 nats. Nothing is held fixed, the
    confidence included; the adversary ascends the cross-entropy. Inputs pass apart, as in
    `Trades`.

    Attributes:
      weight: lambda (the authors: 5 or 6).

    Raises:
      ValueError: `weight` is negative.
    """

    weight: float

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def __call__(
        self,
        train_fn: TrainFn,
        variables: PyTree,
        x: Images,
        x_adversarial: Images,
        y: Labels,
        rngs: dict[str, Array],
    ) -> Outcome:
        clean, logits, batch_stats = _both(train_fn, variables, x, x_adversarial, rngs)
        doubt = -jnp.expm1(-losses.cross_entropy(clean, y))  # 1 - f_y(x)
        divergence = losses.kl_divergence(clean, logits)
        loss = losses.boosted_cross_entropy(logits, y) + self.weight * divergence * doubt
        return Outcome(loss, batch_stats, logits)


@dataclasses.dataclass(frozen=True)
class SelfSupervision:
    """Cross-entropy of classes and of rotations (Hendrycks et al., 2019), Eq. (16).

    Half of the batch is rotated (`rfm.training.rotation`) and goes, with the other half, through
    the network in one pass; its own head tells by how much. Means are over the halves::

        mean of L(f(x_adversarial), y) + weight * mean of L(r(x_adversarial), y_r)

    Attributes:
      classes: number of logits of the first head.
      weight: lambda.
      smoothing: of the labels of classes.

    Raises:
      ValueError: `weight` is negative or `smoothing` is not in [0, 1).
    """

    classes: int
    weight: float
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        CrossEntropy(self.smoothing)

    def __call__(
        self,
        train_fn: TrainFn,
        variables: PyTree,
        x: Images,
        x_adversarial: Images,
        y: Labels,
        rngs: dict[str, Array],
    ) -> Outcome:
        logits, batch_stats = train_fn(variables, x_adversarial, rngs)
        of_class = logits[:, : self.classes]
        of_rotation = rotation.cross_entropy(logits, y, self.classes)
        rotated = y >= self.classes
        label = jnp.where(rotated, 0, y)
        # Each half is half of the batch, over which the caller takes the mean.
        loss = 2 * jnp.where(
            rotated,
            self.weight * of_rotation,
            _cross_entropy(of_class, label, self.smoothing),
        )
        return Outcome(loss, batch_stats, logits)


def _both(
    train_fn: TrainFn, variables: PyTree, x: Images, x_adversarial: Images, rngs: dict[str, Array]
) -> tuple[Logits, Logits, PyTree]:
    """Logits of clean and of adversarial inputs, one pass after the other."""
    clean, batch_stats = train_fn(variables, x, rngs)
    variables = {**variables, "batch_stats": batch_stats}
    rngs = {name: jax.random.fold_in(key, 1) for name, key in rngs.items()}
    logits, batch_stats = train_fn(variables, x_adversarial, rngs)
    return clean, logits, batch_stats


def _cross_entropy(logits: Logits, labels: Labels, smoothing: float) -> PerExample:
    if smoothing:
        return losses.smoothed_cross_entropy(logits, labels, smoothing)
    return losses.cross_entropy(logits, labels)


def _check_weight(weight: float) -> None:
    if not weight >= 0:
        raise ValueError(f"the weight of an objective must be at least 0, got {weight}")
