"""From a config to the objects of a run.

A config has strings and numbers; everything below works with objects and functions.
This is the one place where the former become the latter, and where a config that makes
no sense is refused, with the name of the field.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from rfm import data as rfm_data
from rfm import models
from rfm.devices import AXIS, make_mesh, replicate
from rfm.errors import UserError
from rfm.training import axes, limits
from rfm.training.after import AverageWeights
from rfm.training.dispatch import steps_per_epoch
from rfm.training.state import Average, TrainState, create_train_state
from rfm.training.step import Method, Network


@dataclasses.dataclass(frozen=True)
class Run:
    """A config, resolved.

    Attributes:
      config: what it was made from.
      dataset: on the host.
      mesh: the devices.
      model: the Flax module that is evaluated.
      network: the two faces of the one that is trained; it may have another head.
      method: the training method.
      steps_per_epoch: whole batches in the training set.
      total_steps: of the whole training.
      schedule: the learning rate as a function of the step.
    """

    config: ml_collections.ConfigDict
    dataset: rfm_data.Dataset
    mesh: Mesh
    model: nn.Module
    network: Network
    method: Method
    steps_per_epoch: int
    total_steps: int
    schedule: Callable[[Any], Any]

    def key(self, purpose: str) -> Key[Array, ""]:
        """The key for "init", "train" or "validation", derived from the seed."""
        purposes = ("init", "train", "validation")
        keys = jax.random.split(jax.random.key(self.config.seed), len(purposes))
        return keys[purposes.index(purpose)]

    def initial_state(self) -> TrainState:
        """Fresh parameters, on every device."""
        model = self.model.clone(rotation_head=self.method.rotations)
        init = models.initialise(model, self.key("init"), self.dataset.image_shape)
        params, batch_stats = init
        optimiser = self.method.optimiser.init(params)
        average = any(isinstance(after, AverageWeights) for after in self.method.after)
        state = create_train_state(params, batch_stats, optimiser, average=average)
        return replicate(state, self.mesh)

    def extra(self) -> rfm_data.extra.Labelled | None:
        """Pseudo-labelled images, half of every batch; read anew, None if there are none.

        Raises:
          UserError: the file is missing, damaged, or does not fit.
        """
        path, dataset = self.config.data.extra, self.dataset
        if not path:
            return None
        return rfm_data.extra.read(path, image_shape=dataset.image_shape, classes=dataset.classes)

    def evaluated(self, state: TrainState) -> Average:
        """Weights and statistics that are evaluated: an average, without the rotation head."""
        params, batch_stats = state.evaluated
        if self.method.rotations:
            params = {k: v for k, v in params.items() if k not in models.ROTATION_HEAD}
        return Average(params, batch_stats)

    def apply_fn(self, batch_stats: PyTree) -> jax.tree_util.Partial:
        """The network in evaluation mode as an ``ApplyFn``."""
        return models.apply_fn(self.model, batch_stats)


def build(config: ml_collections.ConfigDict, *, dataset: rfm_data.Dataset | None = None) -> Run:
    """Loads the data and builds all parts.

    Args:
      config: see `rfm.configs.base`.
      dataset: instead of what ``config.data.source`` names.

    Raises:
      UserError: a field of the config has no sensible value; says which and why.
    """
    limits.check(config)
    axes.check(config)  # before data are loaded
    if dataset is None:
        dataset = rfm_data.load(
            config.data.source,
            data_dir=config.data.dir or None,
            train_examples=config.data.train_examples or None,
        )
    if config.data.crop > min(dataset.image_shape[:2]):
        raise UserError(
            f"config.data.crop must be at most {min(dataset.image_shape[:2])}, the size of the"
            f" images, got {config.data.crop}"
        )
    height, width, channels = dataset.image_shape
    if config.objective.name == "self_supervision" and height != width:
        raise UserError(
            "config.objective.name=self_supervision rotates images, which must be square;"
            f" {dataset.name} has {height}x{width}"
        )
    if config.data.autoaugment and channels not in (1, 3):
        raise UserError(
            f"config.data.autoaugment is for 1 or 3 channels; {dataset.name} has {channels}"
        )
    mean, std = _whitening(config.model, dataset)
    model = models.create(
        config.model.name,
        classes=dataset.classes,
        width=config.model.width,
        mean=mean,
        std=std,
        activation=config.model.activation,
        cosine_scale=config.model.cosine_scale,
        dtype=config.model.dtype,
        dropout=config.model.dropout,
        remat=config.model.remat,
    )
    per_step = config.optimiser.inner_steps or 1
    try:
        in_epoch = steps_per_epoch(len(dataset.train_labels), config.train.batch_size, per_step)
    except ValueError as error:
        raise UserError(f"config.train.batch_size: {error}") from None
    limits.check_steps(in_epoch * config.train.epochs)
    try:
        mesh = make_mesh(config.train.batch_size)
    except ValueError as error:
        raise UserError(f"config.train.batch_size: {error}") from None
    count = config.train.micro_batches
    pieces = 2 * count * mesh.size  # pairs, see `rfm.training.step`
    if count > 1 and config.train.batch_size % pieces:
        raise UserError(
            f"config.train.batch_size={config.train.batch_size} cannot be cut evenly into"
            f" {config.train.micro_batches} micro-batches over {mesh.size} devices; a multiple of"
            f" {pieces} can"
        )
    schedule = axes.schedule(config.optimiser, in_epoch)
    method = axes.method(config, dataset.classes, schedule)
    trained = model.clone(rotation_head=method.rotations)
    network = Network(models.EvaluationMode(trained), models.train_fn(trained, axis_name=AXIS))
    return Run(
        config=config,
        dataset=dataset,
        mesh=mesh,
        model=model,
        network=network,
        method=method,
        steps_per_epoch=in_epoch,
        total_steps=in_epoch * config.train.epochs,
        schedule=schedule,
    )


def _whitening(
    section: ml_collections.ConfigDict, dataset: rfm_data.Dataset
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel, those of the training images if the config has none."""
    mean, std = (tuple(map(float, section[name])) for name in ("mean", "std"))
    if not mean and not std:
        found = dataset.pixel_statistics()
        # A constant channel stays as it is.
        return tuple(map(float, found[0])), tuple(float(s) or 1.0 for s in found[1])
    channels = dataset.image_shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise UserError(
            f"config.model.mean and .std must have a number for each of the {channels} channels of"
            f" {dataset.name}, or both be (); got {mean} and {std}"
        )
    if not all(math.isfinite(number) for number in mean + std) or min(std) <= 0:
        raise UserError(
            f"config.model.mean and .std must be finite, .std positive; got {mean} and {std}"
        )
    return mean, std
