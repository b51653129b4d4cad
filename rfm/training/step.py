"""The training step, a pure function.

``train_step(state, batch, key) -> state, metrics`` does, in this order: augment;
attack in evaluation mode; move the weights, if there is a weight adversary; loss and gradient
in training mode; update; after-steps. Everything random derives from `key` and an example's
position in the batch, so the result does not depend on how the batch is laid out over devices.

Examples are made and the gradient is computed under ``jax.shard_map``: each device works
through its part of the batch, and gradients, metrics and batch statistics are summed over the
mesh. To save memory a batch may be cut into micro-batches, each of which has a share of every
device: the gradient is the mean of theirs. Batch normalisation knows of one micro-batch at a
time, and running statistics move once for each, as in PyTorch; without batch normalisation the
result is that of the whole batch.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from rfm import losses
from rfm.data.augment import Augmentation, augment
from rfm.devices import AXIS
from rfm.training import micro_batches
from rfm.training.adversary import Adversary
from rfm.training.objective import Objective
from rfm.training.optimiser import GradFn, Gradient, Optimiser
from rfm.training.rotation import rotate_half
from rfm.training.state import TrainState
from rfm.training.weight_adversary import WeightAdversary
from rfm.types import ApplyFn, Images, Labels, Params, TrainFn, bind

AfterStep = Callable[[TrainState], TrainState]
"""What happens to the state after the update: clip weights, keep an average."""


class TrainBatch(NamedTuple):
    """Pixels as they are stored, and labels."""

    images: UInt8[Array, "n h w c"]
    labels: Int[Array, " n"]


class Examples(NamedTuple):
    """What the gradient is taken on.

    Attributes:
      x: augmented inputs in [0, 1].
      x_adversarial: what the adversary made of them.
      labels: the true ones, that of a rotated example as in `rfm.training.rotation`.
      noisy: those that the objective is given.
    """

    x: Images
    x_adversarial: Images
    labels: Labels
    noisy: Labels


@dataclasses.dataclass(frozen=True)
class Method:
    """A training method: one choice on each axis.

    Attributes:
      augmentation: of one uint8 image, or None.
      adversary: see `rfm.training.adversary`.
      objective: see `rfm.training.objective`.
      optimiser: see `rfm.training.optimiser`.
      weight_adversary: see `rfm.training.weight_adversary`, or None.
      after: applied in order after each update.
      classes: number of classes; label noise and rotations need it.
      label_noise: share of the examples whose label is drawn anew for the update, uniformly
        over all classes (Section G); the attack sees the true labels.
      rotations: rotate half of each batch, see `rfm.training.rotation`.
      micro_batches: pieces of a batch, one after the other; each device's part must be so many
        pairs of examples, or a multiple.
    """

    augmentation: Augmentation | None
    adversary: Adversary
    objective: Objective
    optimiser: Optimiser
    weight_adversary: WeightAdversary | None = None
    after: tuple[AfterStep, ...] = ()
    classes: int = 0
    label_noise: float = 0.0
    rotations: bool = False
    micro_batches: int = 1


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
    """The gradient of a method's loss on one batch, over all devices of the mesh.

    The metrics are those at the weights themselves: `loss`, the cross-entropy, and `error` at
    the adversarial inputs and true labels.
    """
    everywhere, cut = PartitionSpec(), PartitionSpec(AXIS)
    # Without the check, gradients of the replicated parameters stay local to a device
    # until the one sum, and adversaries need not know of the mesh.
    make_examples = jax.shard_map(
        micro_batches.mapped(functools.partial(_examples, method, network), method.micro_batches),
        mesh=mesh,
        in_specs=(everywhere, everywhere, cut, cut, cut),
        out_specs=cut,
        check_vma=False,
    )
    gradient_on = jax.shard_map(
        micro_batches.mean_gradient(
            functools.partial(_gradient, method, network), method.micro_batches, AXIS
        ),
        mesh=mesh,
        in_specs=(everywhere, everywhere, cut, everywhere),
        out_specs=everywhere,
        check_vma=False,
    )

    def grad_fn(
        params: Params, batch_stats: PyTree, batch: TrainBatch, key: Key[Array, ""]
    ) -> Gradient:
        positions = jnp.arange(batch.labels.shape[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
        examples = make_examples(params, batch_stats, batch, keys, positions)
        found: Gradient = gradient_on(params, batch_stats, examples, key)
        if method.weight_adversary is None:
            return found

        def gradient_at(params: Params) -> Params:
            return gradient_on(params, batch_stats, examples, key).gradient

        moved = method.weight_adversary(gradient_at, params, found.gradient)
        there: Gradient = gradient_on(moved, batch_stats, examples, key)
        return there._replace(metrics=found.metrics)

    return grad_fn


def _examples(
    method: Method,
    network: Network,
    params: Params,
    batch_stats: PyTree,
    batch: TrainBatch,
    keys: Key[Array, " n"],
    positions: Int[Array, " n"],
) -> Examples:
    """What one device trains on."""
    split = jax.vmap(functools.partial(jax.random.split, num=4))(keys)
    augment_keys, attack_keys, noise_keys, turn_keys = jnp.moveaxis(split, 1, 0)
    x, y = augment(method.augmentation, batch.images, augment_keys), batch.labels
    noisy = y
    if method.label_noise:
        noisy = _with_noise(y, noise_keys, method.label_noise, method.classes)
    if method.rotations:
        x, y = rotate_half(x, y, turn_keys, positions, method.classes)
        noisy = jnp.where(y >= method.classes, y, noisy)
    logits_fn = bind(network.apply_fn, batch_stats, params)
    return Examples(x, method.adversary(logits_fn, x, y, attack_keys), y, noisy)


def _gradient(
    method: Method,
    network: Network,
    params: Params,
    batch_stats: PyTree,
    examples: Examples,
    key: Key[Array, ""],
) -> Gradient:
    """The sum over devices of what one of them contributes."""
    total = jax.lax.psum(examples.labels.shape[0], AXIS)
    rngs = {"dropout": key}

    def mean_loss(params: Params) -> tuple[Array, tuple[PyTree, Array]]:
        variables = {"params": params, "batch_stats": batch_stats}
        x, x_adversarial, _, noisy = examples
        found = method.objective(network.train_fn, variables, x, x_adversarial, noisy, rngs)
        return found.losses.sum() / total, (found.batch_stats, found.logits)

    gradient, (new_stats, logits) = jax.grad(mean_loss, has_aux=True)(params)
    classes = method.classes if method.rotations else logits.shape[-1]
    counts = examples.labels < classes  # errors of rotations are not RErr
    loss = losses.cross_entropy(logits[:, :classes], jnp.where(counts, examples.labels, 0))
    wrong = losses.is_misclassified(logits[:, :classes], examples.labels)
    sums = [jnp.where(counts, v, 0).sum() for v in (loss, wrong, counts)]
    gradient, (loss_sum, errors, count) = jax.lax.psum((gradient, sums), AXIS)
    return Gradient(gradient, new_stats, {"loss": loss_sum / count, "error": errors / count})


def _with_noise(labels: Labels, keys: Key[Array, " n"], share: float, classes: int) -> Labels:
    """A share of the labels drawn anew, uniformly over all classes."""

    def draw(label: Array, key: Key[Array, ""]) -> Array:
        which, what = jax.random.split(key)
        other = jax.random.randint(what, (), 0, classes, label.dtype)
        return jnp.where(jax.random.bernoulli(which, share), other, label)

    return jax.vmap(draw)(labels, keys)
