"""The objective axis: which loss is minimised on clean and adversarial inputs?

An objective is a hashable callable that runs the network in training mode and returns
losses per example, the new batch statistics and the logits at the adversarial inputs.
Which inputs go through the network, together or apart, decides what batch
normalisation sees; each objective says so.
"""

import dataclasses
from typing import NamedTuple, Protocol

from jaxtyping import Array, PyTree

from rfm import losses
from rfm.types import Images, Labels, Logits, PerExample, TrainFn


class Outcome(NamedTuple):
    """What an objective returns: losses (n,), new statistics, adversarial logits (n, k)."""

    losses: PerExample
    batch_stats: PyTree
    logits: Logits


class Objective(Protocol):
    """Losses of a batch in training mode."""

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
    """

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
        return Outcome(losses.cross_entropy(logits, y), batch_stats, logits)
