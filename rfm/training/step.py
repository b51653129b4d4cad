"""The training step, a pure function.

``train_step(state, batch, key) -> state, metrics`` does, in this order: augment;
attack in evaluation mode; loss and gradient in training mode; update; after-steps.
Everything random derives from `key` and an example's position in the batch, so the
result does not depend on how the batch is laid out over devices.

The gradient is computed under ``jax.shard_map``: each device works through its part of
the batch, and gradients, metrics and batch statistics are summed over the mesh.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from rfm import losses
from rfm.data.augment import Augmentation, augment
from rfm.devices import AXIS
from rfm.training.adversary import Adversary
from rfm.training.objective import Objective
from rfm.training.optimiser import GradFn, Gradient, Optimiser
from rfm.training.state import TrainState
from rfm.types import ApplyFn, Params, TrainFn, bind

AfterStep = Callable[[TrainState], TrainState]
"""What happens to the state after the update: clip weights, keep an average."""


class TrainBatch(NamedTuple):
    """Pixels as they are stored, and labels."""

    images: UInt8[Array, "n h w c"]
    labels: Int[Array, " n"]


@dataclasses.dataclass(frozen=True)
class Method:
    """A training method: one choice on each axis.

    Attributes:
      augmentation: of one uint8 image, or None.
      adversary: see `rfm.training.adversary`.
      objective: see `rfm.training.objective`.
      optimiser: see `rfm.training.optimiser`.
      after: applied in order after each update.
    """

    augmentation: Augmentation | None
    adversary: Adversary
    objective: Objective
    optimiser: Optimiser
    after: tuple[AfterStep, ...] = ()


@dataclasses.dataclass(frozen=True)
class Network:
    """The two faces of a network that training needs.

    Attributes:
      apply_fn: (batch_stats, params, x) -> logits, evaluation mode.
      train_fn: training mode; its batch statistics are means over `rfm.devices.AXIS`.
    """

    apply_fn: Callable[[PyTree, Params, Array], Array] | ApplyFn
    train_fn: TrainFn


def train_step(
    method: Method,
    network: Network,
    mesh: Mesh,
    state: TrainState,
    batches: tuple[TrainBatch, ...],
    key: Key[Array, ""],
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update of `state` from as many batches as the optimiser takes.

    Returns:
      The new state, and metrics, means over the batch: `loss` and `error` at the
      adversarial inputs (RLoss and RErr by the training attack), float32.
    """
    grad_fn = gradient_function(method, network, mesh)
    state, metrics = method.optimiser.update(grad_fn, state, batches, key)
    for after in method.after:
        state = after(state)
    return dataclasses.replace(state, step=state.step + 1), metrics


def gradient_function(method: Method, network: Network, mesh: Mesh) -> GradFn:
    """The gradient of a method's loss on one batch, over all devices of the mesh."""

    def on_one_device(
        params: Params, batch_stats: PyTree, batch: TrainBatch, keys: Key[Array, " n"]
    ) -> Gradient:
        augment_keys, attack_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        x, y = augment(method.augmentation, batch.images, augment_keys), batch.labels
        logits_fn = bind(network.apply_fn, batch_stats, params)
        x_adversarial = jax.lax.stop_gradient(method.adversary(logits_fn, x, y, attack_keys))
        examples = jax.lax.psum(x.shape[0], AXIS)

        def mean_loss(params: Params) -> tuple[Array, tuple[PyTree, Array]]:
            variables = {"params": params, "batch_stats": batch_stats}
            found = method.objective(network.train_fn, variables, x, x_adversarial, y, {})
            return found.losses.sum() / examples, (found.batch_stats, found.logits)

        (loss, (new_stats, logits)), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
        error = losses.is_misclassified(logits, y).sum() / examples
        gradient, loss, error = jax.lax.psum((gradient, loss, error), AXIS)
        return Gradient(gradient, new_stats, {"loss": loss, "error": error})

    everywhere, cut = PartitionSpec(), PartitionSpec(AXIS)
    # Without the check, gradients of the replicated parameters stay local to a device
    # until the one sum above, and adversaries need not know of the mesh.
    mapped = jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(everywhere, everywhere, cut, cut),
        out_specs=everywhere,
        check_vma=False,
    )

    def grad_fn(
        params: Params, batch_stats: PyTree, batch: TrainBatch, key: Key[Array, ""]
    ) -> Gradient:
        positions = jnp.arange(batch.labels.shape[0])
        return mapped(
            params, batch_stats, batch, jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
        )

    return grad_fn
