"""What happens to the state after an update; each is a hashable callable."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from rfm.training.state import Average, TrainState


@dataclasses.dataclass(frozen=True)
class ClipWeights:
    """Weights into ``[-limit, limit]`` (Stutz et al., 2021; "Weight Clipping" of Section G).

    All of them: scales of batch normalisation are stored as offsets from one.

    Raises:
      ValueError: `limit` is not positive.
    """

    limit: float

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"the limit of weights must be positive, got {self.limit}")

    def __call__(self, state: TrainState) -> TrainState:
        clipped = jax.tree.map(lambda w: jnp.clip(w, -self.limit, self.limit), state.params)
        return dataclasses.replace(state, params=clipped)


@dataclasses.dataclass(frozen=True)
class AverageWeights:
    """A running average of the weights, Eq. (8) of the supplement.

    ::

        average <- tau * average + (1 - tau) * w

    from the initial weights on. The running statistics of batch normalisation are averaged
    alike, so that those of the averaged network fit its weights: both are means over the same
    steps. The average is what is evaluated; training itself never sees it.

    Raises:
      ValueError: `tau` is not in [0, 1).
    """

    tau: float

    def __post_init__(self) -> None:
        if not 0 <= self.tau < 1:
            raise ValueError(f"tau must be in [0, 1), got {self.tau}")

    def __call__(self, state: TrainState) -> TrainState:
        assert state.average is not None, "create_train_state(..., average=True)"
        new = Average(state.params, state.batch_stats)
        average = optax.incremental_update(new, state.average, 1 - self.tau)
        return dataclasses.replace(state, average=average)
