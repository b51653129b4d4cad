"""From a config to a training method: a choice on each axis, and which do not go together.

Strings and numbers become the objects of `rfm.training.step.Method`. Combinations that
contradict each other are refused with the reason; all others are free.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from rfm import losses, threat
from rfm.attacks import PGD
from rfm.data.augment import Augmentation, FlipAndCrop
from rfm.data.autoaugment import AutoAugment, Cutout, Sequence
from rfm.errors import UserError, choose
from rfm.perturb import RelativeBall
from rfm.training.adversary import Adversary, Attack, NoAdversary
from rfm.training.after import AverageWeights, ClipWeights
from rfm.training.entropy_sgd import EntropySGD
from rfm.training.objective import CrossEntropy, Mart, Objective, SelfSupervision, Trades
from rfm.training.optimiser import Optimiser, adam, sgd
from rfm.training.rotation import WithinHead
from rfm.training.schedule import Schedule, cyclic, multi_step
from rfm.training.step import AfterStep, Method
from rfm.training.weight_adversary import AdversarialWeights, SharpnessAware, WeightAdversary
from rfm.types import Threat

THREATS: dict[str, Callable[[float], Threat]] = {"linf": threat.linf, "l2": threat.l2}
ATTACK_LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": losses.cross_entropy,
    "margin": losses.margin,
    "kl": losses.kl_divergence_from,
}
OBJECTIVES = ("cross_entropy", "trades", "mart", "self_supervision")
OPTIMISERS = ("sgd", "adam", "entropy_sgd")
WEIGHT_ADVERSARIES = ("", "awp", "sam")


def method(config: ConfigDict, classes: int, schedule: Schedule) -> Method:
    """The training method of a config that `check` has nothing against.

    Raises:
      UserError: a field has no sensible value.
    """
    return Method(
        augmentation=_augmentation(config.data),
        adversary=_adversary(config, classes),
        objective=_objective(config.objective, classes),
        optimiser=_optimiser(config.optimiser, schedule),
        weight_adversary=_weight_adversary(config.weight_adversary),
        after=_after(config.after),
        classes=classes,
        label_noise=config.data.label_noise,
        micro_batches=max(config.train.micro_batches, 1),
        rotations=config.objective.name == "self_supervision",
    )


def schedule(config: ConfigDict, steps_per_epoch: int) -> Schedule:
    """The learning rate as a function of the step, from the section `optimiser`."""
    if config.learning_rate <= 0:
        raise UserError(
            f"config.optimiser.learning_rate must be positive, got {config.learning_rate}"
        )
    if config.cycle:
        return cyclic(config.learning_rate, config.cycle, steps_per_epoch)
    return multi_step(config.learning_rate, config.milestones, config.factor, steps_per_epoch)


def attack(config: ConfigDict, field: str) -> PGD:
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
            stop_after=config.stop_after if config.get("stop_early") else None,
            chunk=config.get("chunk", 0) or None,
        )
    except ValueError as error:
        raise UserError(f"{field}: {error}") from None


def check(config: ConfigDict) -> None:
    """Refuses names that are unknown and choices that contradict each other.

    Raises:
      UserError: says which, and why.
    """
    for field, name, known in (
        ("config.objective.name", config.objective.name, OBJECTIVES),
        ("config.optimiser.name", config.optimiser.name, OPTIMISERS),
        ("config.weight_adversary.name", config.weight_adversary.name, WEIGHT_ADVERSARIES),
        ("config.adversary.name", config.adversary.name, ("pgd", "none")),
    ):
        choose(field, name, dict.fromkeys(known))
    for holds, why in _contradictions(config):
        if holds:
            raise UserError(why)


def _contradictions(config: ConfigDict) -> Iterator[tuple[bool, str]]:
    objective, adversary, data = config.objective, config.adversary, config.data
    none, rotations = adversary.name == "none", objective.name == "self_supervision"
    special = adversary.stop_early or adversary.ignore_incorrect or adversary.prevent_label_leaking
    entropy = config.optimiser.name == "entropy_sgd"
    yield (
        none and objective.name in ("trades", "mart"),
        f"config.objective.name={objective.name} compares clean with adversarial inputs, but"
        " config.adversary.name=none makes none",
    )
    yield (
        none and bool(special),
        "config.adversary.name=none leaves nothing to stop early, to ignore or to leak",
    )
    yield (
        adversary.loss == "kl" and adversary.prevent_label_leaking,
        "config.adversary.loss=kl attacks the prediction: it has no label to replace",
    )
    yield (
        rotations and adversary.loss != "cross_entropy",
        "config.objective.name=self_supervision attacks rotations by their cross-entropy:"
        f" config.adversary.loss={adversary.loss} has no say",
    )
    yield (
        adversary.ignore_incorrect and adversary.prevent_label_leaking,
        "config.adversary.ignore_incorrect and prevent_label_leaking are two answers to one"
        " question, what to do with misclassified examples: choose one",
    )
    yield (
        rotations and bool(special),
        "config.objective.name=self_supervision attacks rotations, too; whether their class is"
        " right does not say when to stop, what to ignore or what to attack instead",
    )
    yield (
        rotations and bool(data.extra),
        "config.objective.name=self_supervision and config.data.extra both take every second"
        " example of a batch",
    )
    yield (
        objective.name == "mart" and bool(objective.label_smoothing),
        "config.objective.label_smoothing: MART's boosted cross-entropy has no smoothed form",
    )
    yield (
        objective.name == "cross_entropy" and bool(objective.weight),
        "config.objective.weight: the cross-entropy has no second term to weigh; choose another"
        " config.objective.name",
    )
    yield (
        entropy != bool(config.optimiser.inner_steps),
        "config.optimiser.inner_steps belongs to config.optimiser.name=entropy_sgd, which needs it",
    )
    yield (
        not config.weight_adversary.name
        and bool(config.weight_adversary.radius or config.weight_adversary.steps),
        "config.weight_adversary.radius and steps need a config.weight_adversary.name: awp or sam",
    )
    yield (
        bool(config.weight_adversary.name) and not config.weight_adversary.radius,
        f"config.weight_adversary.name={config.weight_adversary.name} needs a radius",
    )
    yield (
        config.weight_adversary.name == "sam" and bool(config.weight_adversary.steps),
        "config.weight_adversary.steps: sam makes one step; only awp makes more",
    )
    yield (
        bool(config.optimiser.cycle and config.optimiser.milestones),
        "config.optimiser.cycle replaces milestones: set config.optimiser.milestones=()",
    )
    yield (
        not adversary.stop_early and bool(adversary.stop_after),
        "config.adversary.stop_after needs config.adversary.stop_early=True",
    )
    yield (
        bool(data.extra) and data.stream > 0,
        "config.data.extra with config.data.stream: pseudo-labelled images live on the devices,"
        " so the others must, too; set config.data.stream=0",
    )
    yield (
        bool(data.extra or rotations) and config.train.batch_size % 2 == 1,
        "config.train.batch_size must be even for halves of batches, got"
        f" {config.train.batch_size}",
    )


def _augmentation(config: ConfigDict) -> Augmentation | None:
    steps: list[Augmentation] = []
    if config.flip or config.crop:
        steps.append(FlipAndCrop(config.flip, config.crop))
    if config.autoaugment:
        steps.append(AutoAugment())
    if config.cutout:
        steps.append(Cutout(config.cutout))
    if len(steps) > 1:
        return Sequence(tuple(steps))
    return steps[0] if steps else None


def _adversary(config: ConfigDict, classes: int) -> Adversary:
    section = config.adversary
    if section.name == "none":
        return NoAdversary()
    settings = attack(section, "config.adversary")
    if config.objective.name == "self_supervision":
        settings = dataclasses.replace(settings, loss=WithinHead(classes))
    return Attack(
        settings,
        from_clean=section.loss == "kl",
        ignore_incorrect=section.ignore_incorrect,
        prevent_label_leaking=section.prevent_label_leaking,
    )


def _objective(config: ConfigDict, classes: int) -> Objective:
    smoothing, weight = config.label_smoothing, config.weight
    with _told("config.objective"):
        if config.name == "trades":
            return Trades(weight, smoothing)
        if config.name == "mart":
            return Mart(weight)
        if config.name == "self_supervision":
            return SelfSupervision(classes, weight, smoothing)
        return CrossEntropy(smoothing)


def _optimiser(config: ConfigDict, schedule: Schedule) -> Optimiser:
    if config.name == "adam":
        return adam(schedule, weight_decay=config.weight_decay)
    settings = {name: config[name] for name in ("momentum", "nesterov", "weight_decay")}
    outer = sgd(schedule, **settings)
    if config.name == "sgd":
        return outer
    with _told("config.optimiser"):
        return EntropySGD(outer.transformation, config.inner_steps, **settings)


def _weight_adversary(config: ConfigDict) -> WeightAdversary | None:
    with _told("config.weight_adversary"):
        if config.name == "awp":
            return AdversarialWeights(RelativeBall(config.radius), config.steps)
        if config.name == "sam":
            return SharpnessAware(config.radius)
    return None


def _after(config: ConfigDict) -> tuple[AfterStep, ...]:
    made: list[AfterStep] = []
    with _told("config.after"):
        if config.clip_weights:
            made.append(ClipWeights(config.clip_weights))
        if config.average_weights:
            made.append(AverageWeights(config.average_weights))
    return tuple(made)


@contextlib.contextmanager
def _told(field: str) -> Iterator[None]:
    """Tells what an axis refuses in the user's words."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{field}: {error}") from None
