"""From a config to the objects of a run.

A config has strings and numbers; everything below works with objects and functions.
This is the one place where the former become the latter, and where a config that makes
no sense is refused, with the name of the field.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from rfm import data as rfm_data
from rfm import losses, models, threat
from rfm.attacks import PGD
from rfm.data.augment import FlipAndCrop
from rfm.devices import AXIS, make_mesh, replicate
from rfm.errors import UserError, choose
from rfm.training import limits
from rfm.training.adversary import Adversary, Attack, NoAdversary
from rfm.training.dispatch import steps_per_epoch
from rfm.training.objective import CrossEntropy, Objective
from rfm.training.optimiser import Optimiser, sgd
from rfm.training.schedule import multi_step
from rfm.training.state import TrainState, create_train_state
from rfm.training.step import Method, Network
from rfm.types import Threat

THREATS: dict[str, Callable[[float], Threat]] = {"linf": threat.linf, "l2": threat.l2}
ATTACK_LOSSES = {"cross_entropy": losses.cross_entropy, "margin": losses.margin}
OBJECTIVES: dict[str, Callable[[], Objective]] = {"cross_entropy": CrossEntropy}


@dataclasses.dataclass(frozen=True)
class Run:
    """A config, resolved.

    Attributes:
      config: what it was made from.
      dataset: on the host.
      mesh: the devices.
      model: the Flax module.
      network: its two faces, for training.
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
        init = models.initialise(self.model, self.key("init"), self.dataset.image_shape)
        params, batch_stats = init
        optimiser = self.method.optimiser.init(params)
        return replicate(create_train_state(params, batch_stats, optimiser), self.mesh)

    def apply_fn(self, batch_stats: PyTree) -> jax.tree_util.Partial:
        """The network in evaluation mode as an ``ApplyFn``."""
        return models.apply_fn(self.model, batch_stats)


def build(config: ml_collections.ConfigDict) -> Run:
    """Loads the data and builds all parts.

    Raises:
      UserError: a field of the config has no sensible value; says which and why.
    """
    limits.check(config)
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
    mean, std = dataset.pixel_statistics()
    make_model = functools.partial(
        models.create,
        config.model.name,
        classes=dataset.classes,
        width=config.model.width,
        mean=tuple(map(float, mean)),
        std=tuple(float(s) or 1.0 for s in std),  # a constant channel stays as it is
        activation=config.model.activation,
        dtype=config.model.dtype,
    )
    model = make_model()
    try:
        in_epoch = steps_per_epoch(len(dataset.train_labels), config.train.batch_size)
    except ValueError as error:
        raise UserError(f"config.train.batch_size: {error}") from None
    limits.check_steps(in_epoch * config.train.epochs)
    schedule = _schedule(config.optimiser, in_epoch)
    method = Method(
        augmentation=_augmentation(config.data),
        adversary=_adversary(config.adversary),
        objective=choose("config.objective.name", config.objective.name, OBJECTIVES)(),
        optimiser=_optimiser(config.optimiser, schedule),
    )
    network = Network(models.EvaluationMode(model), models.train_fn(model, axis_name=AXIS))
    return Run(
        config=config,
        dataset=dataset,
        mesh=make_mesh(config.train.batch_size),
        model=model,
        network=network,
        method=method,
        steps_per_epoch=in_epoch,
        total_steps=in_epoch * config.train.epochs,
        schedule=schedule,
    )


def attack(config: ml_collections.ConfigDict, field: str) -> PGD:
    """The attack that a section of the config describes.

    Raises:
      UserError: it makes no sense; `field` is the section's name.
    """
    ball = choose(f"{field}.threat", config.threat, THREATS)
    try:
        return PGD(
            threat=ball(config.epsilon),
            steps=config.steps,
            step_size=config.step_size,
            restarts=config.get("restarts", 1),
            loss=choose(f"{field}.loss", config.get("loss", "cross_entropy"), ATTACK_LOSSES),
            chunk=config.get("chunk", 0) or None,
        )
    except ValueError as error:
        raise UserError(f"{field}: {error}") from None


def _augmentation(config: ml_collections.ConfigDict) -> FlipAndCrop | None:
    return FlipAndCrop(config.flip, config.crop) if config.flip or config.crop else None


def _adversary(config: ml_collections.ConfigDict) -> Adversary:
    if config.name == "none":
        return NoAdversary()
    if config.name != "pgd":
        raise UserError(f"config.adversary.name must be 'pgd' or 'none', got {config.name!r}")
    return Attack(attack(config, "config.adversary"))


def _schedule(config: ml_collections.ConfigDict, in_epoch: int) -> Callable[[Any], Any]:
    if config.learning_rate <= 0:
        raise UserError(
            f"config.optimiser.learning_rate must be positive, got {config.learning_rate}"
        )
    return multi_step(config.learning_rate, config.milestones, config.factor, in_epoch)


def _optimiser(config: ml_collections.ConfigDict, schedule: Callable[[Any], Any]) -> Optimiser:
    if config.name != "sgd":
        raise UserError(f"config.optimiser.name must be 'sgd', got {config.name!r}")
    return sgd(
        schedule,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )
