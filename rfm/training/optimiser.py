"""The optimiser axis: how do parameters follow the gradient?

Optax transformations cannot express everything here: some optimisers take gradients of
several fresh batches, others wrap the gradient. So an optimiser is given the gradient
*function* and as many batches as it asks for. A plain Optax transformation is the
simplest case.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import optax
from jaxtyping import Array, Float, Key, PyTree

from rfm.training.state import TrainState
from rfm.types import Params


class Gradient(NamedTuple):
    """Of one batch: the gradient, the new batch statistics, and mean metrics."""

    gradient: Params
    batch_stats: PyTree
    metrics: dict[str, Float[Array, ""]]


GradFn = Callable[[Params, PyTree, PyTree, Key[Array, ""]], Gradient]
"""(params, batch_stats, batch, key) -> Gradient."""


class Optimiser(Protocol):
    """Turns gradients into a new state."""

    @property
    def batches(self) -> int:
        """How many fresh batches one update takes."""
        ...

    def init(self, params: Params) -> PyTree:
        """The state of the optimiser for `params`."""
        ...

    def update(
        self, grad_fn: GradFn, state: TrainState, batches: Sequence[PyTree], key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        """One update; the step is counted by the caller."""
        ...


@dataclasses.dataclass(frozen=True)
class Optax:
    """Any ``optax.GradientTransformation``: one batch, one gradient, one update."""

    transformation: optax.GradientTransformation
    batches: int = dataclasses.field(default=1, init=False)

    def init(self, params: Params) -> PyTree:
        return self.transformation.init(params)

    def update(
        self, grad_fn: GradFn, state: TrainState, batches: Sequence[PyTree], key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        (batch,) = batches
        found = grad_fn(state.params, state.batch_stats, batch, key)
        updates, optimiser = self.transformation.update(
            found.gradient, state.optimiser, state.params
        )
        params = optax.apply_updates(state.params, updates)
        state = dataclasses.replace(
            state, params=params, batch_stats=found.batch_stats, optimiser=optimiser
        )
        return state, found.metrics


def adam(schedule: optax.Schedule, *, weight_decay: float) -> Optax:
    """Adam (Kingma & Ba, 2015) as in PyTorch: weight decay is part of the gradient, not AdamW."""
    return Optax(
        optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(schedule, eps=1e-8))
    )


def sgd(schedule: optax.Schedule, *, momentum: float, nesterov: bool, weight_decay: float) -> Optax:
    """Stochastic gradient descent as in PyTorch.

    Weight decay is added to the gradient, before momentum, for every parameter; the
    scales of batch normalisation are stored as offsets from one, so it pulls them there.
    """
    return Optax(
        optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.sgd(schedule, momentum=momentum or None, nesterov=nesterov),
        )
    )
