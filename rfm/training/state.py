"""What training carries from step to step."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from rfm.types import Params


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes; what a checkpoint holds.

    Attributes:
      step: number of updates so far, int32.
      params: the weights.
      batch_stats: running statistics of batch normalisation.
      optimiser: state of the optimiser.
    """

    step: Int[Array, ""]
    params: Params
    batch_stats: PyTree
    optimiser: PyTree


def create_train_state(params: Params, batch_stats: PyTree, optimiser: PyTree) -> TrainState:
    """A state at step 0."""
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimiser)


copy_state = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
"""A copy that survives the donation of the original."""
