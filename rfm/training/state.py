"""What training carries from step to step."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from rfm.types import Params


class Average(NamedTuple):
    """Averaged weights, and statistics that fit them."""

    params: Params
    batch_stats: PyTree


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes; what a checkpoint holds.

    Attributes:
      step: number of updates so far, int32.
      params: the weights.
      batch_stats: running statistics of batch normalisation.
      optimiser: state of the optimiser.
      average: a running average of the weights, if there is one.
    """

    step: Int[Array, ""]
    params: Params
    batch_stats: PyTree
    optimiser: PyTree
    average: Average | None = None

    @property
    def evaluated(self) -> Average:
        """The weights and statistics that are to be evaluated: the average if there is one."""
        return self.average or Average(self.params, self.batch_stats)


def create_train_state(
    params: Params, batch_stats: PyTree, optimiser: PyTree, *, average: bool = False
) -> TrainState:
    """A state at step 0; with a running average if it is to have one."""
    # Copies: a step donates its state, and no buffer can be donated twice.
    started = jax.tree.map(jnp.copy, Average(params, batch_stats)) if average else None
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimiser, started)


copy_state = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
"""A copy that survives the donation of the original."""
