"""What distinguishes each row of Tables D and E from the baseline.

A method is a name: what it is, and its numbers, as in ``awp-0.01`` or ``pgd-7-2``. Names joined
by ``+`` are done together: ``awp-0.01+label-noise-0.3+weight-averaging-0.99``. Each function
below changes a few fields of a config; its docstring says in words what it is, and the first
line of it is what ``rfm methods`` prints. What the paper got is in ``paper.csv``.

Epochs are fractions of those of the config, so that methods fit small configs, too: at the
study's 150 epochs they are as in the study. Early stopping is no method: any run can be
measured at its best snapshot, ``rfm evaluate --checkpoint best``.
"""

import csv
import dataclasses
import importlib.resources
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from rfm.errors import UserError, choose

_EPOCHS = 150  # of the study's baseline


def at(config: ConfigDict) -> None:
    """Adversarial training with PGD-7, the baseline."""


def plain(config: ConfigDict) -> None:
    """Training without an adversary; not in the paper."""
    config.adversary.name = "none"


def learning_rate(config: ConfigDict, start: float) -> None:
    """The multi-step schedule from another learning rate (baseline: 0.05)."""
    config.optimiser.learning_rate = start


def const_learning_rate(config: ConfigDict, rate: float) -> None:
    """A constant learning rate."""
    config.optimiser.update(learning_rate=rate, milestones=())


def late_multi_step(config: ConfigDict) -> None:
    """The learning rate is lowered at epochs 140 and 145 only (Rice et al., 2020)."""
    last = max(min(_epochs(config, 145), config.train.epochs - 1), 2)
    config.optimiser.milestones = (min(_epochs(config, 140), last - 1), last)


def cyclic(config: ConfigDict, cycles: int = 1) -> None:
    """The learning rate goes up to 0.2 and back, in cycles of 30 epochs (Wong et al., 2020)."""
    cycle = max(_epochs(config, 30), 2)
    config.optimiser.update(learning_rate=0.2, cycle=cycle, milestones=())
    config.train.epochs = cycles * cycle


def batch_size(config: ConfigDict, size: int) -> None:
    """Another batch size (baseline: 128)."""
    config.train.batch_size = size


def adam(config: ConfigDict, rate: float = 0.1) -> None:
    """Adam, weight decay inside the gradient (Kingma & Ba, 2015).

    The released experiments use 0.1. It learns, but on the slice of `cifar10_small` 0.001
    learns better: after six epochs Err is 66 % instead of 75, RErr 79 instead of 80.
    """
    config.optimiser.update(name="adam", learning_rate=rate)


def weight_decay(config: ConfigDict, decay: float) -> None:
    """Another weight decay (baseline: 0.0005)."""
    config.optimiser.weight_decay = decay


def no_weight_decay(config: ConfigDict) -> None:
    """No weight decay."""
    config.optimiser.weight_decay = 0.0


def dropout(config: ConfigDict, share: float = 0.1) -> None:
    """Dropout of a share of 0.1 inside the blocks (Srivastava et al., 2014)."""
    config.model.dropout = share


def epsilon(config: ConfigDict, eighths: float) -> None:
    """A larger ball in training: 9/255 where it was 8/255."""
    config.adversary.epsilon *= eighths / 8


def pgd(config: ConfigDict, steps: int, tau: int = -1) -> None:
    """Other steps in training; PGD-7-tau stops tau steps after success (Zhang et al., 2020)."""
    config.adversary.steps = steps
    if tau >= 0:
        config.adversary.update(stop_early=True, stop_after=tau)


def ignore_incorrect(config: ConfigDict) -> None:
    """No attack on examples that are misclassified without one."""
    config.adversary.ignore_incorrect = True


def prevent_label_leaking(config: ConfigDict) -> None:
    """Attacks against predicted labels instead of true ones (Kurakin et al., 2017)."""
    config.adversary.prevent_label_leaking = True


def label_smoothing(config: ConfigDict, tau: float) -> None:
    """1 - tau on the label, the rest on the others; update only (Szegedy et al., 2016)."""
    config.objective.label_smoothing = tau


def label_noise(config: ConfigDict, tau: float) -> None:
    """A share tau of the labels drawn anew from all classes; update only."""
    config.data.label_noise = tau


def weight_averaging(config: ConfigDict, tau: float) -> None:
    """A running average of the weights is evaluated, Eq. (8) (Izmailov et al., 2018)."""
    config.after.average_weights = tau


def weight_clipping(config: ConfigDict, limit: float) -> None:
    """Weights are clipped after each update (Stutz et al., 2021)."""
    config.after.clip_weights = limit


def autoaugment(config: ConfigDict) -> None:
    """AutoAugment's CIFAR-10 policy and 16x16 Cutout on top (Cubuk et al., 2019)."""
    config.data.update(autoaugment=True, cutout=16)


def entropy_sgd(config: ConfigDict, inner_steps: int) -> None:
    """Entropy-SGD with L inner steps (Chaudhari et al., 2017).

    The outer step's learning rate, of which the study says nothing, is 1: its gradient is a
    difference of weights, about a tenth of a gradient of the loss.
    The study trains for 150/L epochs of 390 updates, which take L batches each: as many
    batches as the baseline. Here an epoch is a pass over the data, so epochs stay.
    """
    config.optimiser.update(name="entropy_sgd", inner_steps=inner_steps, learning_rate=1.0)


def silu(config: ConfigDict) -> None:
    """SiLU instead of ReLU, Eq. (9) (Elfwing et al., 2018)."""
    config.model.activation = "silu"


def mish(config: ConfigDict) -> None:
    """MiSH instead of ReLU, Eq. (10) (Misra, 2020)."""
    config.model.activation = "mish"


def gelu(config: ConfigDict) -> None:
    """GeLU instead of ReLU, Eq. (11) (Hendrycks & Gimpel, 2016)."""
    config.model.activation = "gelu"


def awp(config: ConfigDict, radius: float, steps: int = 1) -> None:
    """AT-AWP: the gradient is taken at adversarial weights, Eq. (12) (Wu et al., 2020)."""
    config.weight_adversary.update(name="awp", radius=radius, steps=steps)


def sam(config: ConfigDict, radius: float = 0.05) -> None:
    """SAM: the gradient is taken uphill (Foret et al., 2021); not in the paper."""
    config.weight_adversary.update(name="sam", radius=radius)


def trades(config: ConfigDict, weight: float) -> None:
    """TRADES: cross-entropy plus lambda times a divergence, Eq. (13) (Zhang et al., 2019)."""
    config.objective.update(name="trades", weight=weight)
    config.adversary.loss = "kl"


def mart(config: ConfigDict, weight: float) -> None:
    """MART: misclassified examples count more, Eqs. (14) and (15) (Wang et al., 2020)."""
    config.objective.update(name="mart", weight=weight)


def self_supervision(config: ConfigDict, weight: float) -> None:
    """Half of each batch is rotated, and a head tells how, Eq. (16) (Hendrycks et al., 2019)."""
    config.objective.update(name="self_supervision", weight=weight)


def unlabeled(config: ConfigDict) -> None:
    """Half of each batch is pseudo-labelled, --config.data.extra=FILE (Carmon et al., 2019)."""
    config.data.extra = "ti_500K_pseudo_labeled.pickle"


@dataclasses.dataclass(frozen=True)
class Family:
    """Methods that differ in a number.

    Attributes:
      change: sets the fields, given the numbers.
      numbers: those of the paper and some more, as they stand in names; "" for none.
    """

    change: Callable[..., None]
    numbers: tuple[str, ...] = ("",)

    @property
    def summary(self) -> str:
        """What it is, in a line."""
        return (self.change.__doc__ or "").strip().splitlines()[0]


METHODS: Mapping[str, Family] = {
    "at": Family(at),
    "plain": Family(plain),
    "learning-rate": Family(learning_rate, ("0.2", "0.1", "0.01")),
    "const-learning-rate": Family(const_learning_rate, ("0.05", "0.01", "0.005")),
    "late-multi-step": Family(late_multi_step),
    "cyclic": Family(cyclic, ("", "x2", "x3", "x4")),
    "batch-size": Family(batch_size, ("8", "16", "32", "64", "256", "512")),
    "adam": Family(adam, ("", "0.001")),
    "weight-decay": Family(weight_decay, ("0.001", "0.005", "0.01", "0.05")),
    "no-weight-decay": Family(no_weight_decay),
    "dropout": Family(dropout),
    "epsilon": Family(epsilon, ("9",)),
    "pgd": Family(pgd, ("5", "14", "7-0", "7-1", "7-2", "7-3")),
    "ignore-incorrect": Family(ignore_incorrect),
    "prevent-label-leaking": Family(prevent_label_leaking),
    "label-smoothing": Family(label_smoothing, ("0.1", "0.2", "0.3")),
    "label-noise": Family(label_noise, ("0.1", "0.2", "0.3", "0.4", "0.5")),
    "weight-averaging": Family(weight_averaging, ("0.98", "0.985", "0.99", "0.9975")),
    "weight-clipping": Family(weight_clipping, ("0.005", "0.01", "0.025")),
    "autoaugment": Family(autoaugment),
    "entropy-sgd": Family(entropy_sgd, ("1", "2", "3", "5")),
    "silu": Family(silu),
    "mish": Family(mish),
    "gelu": Family(gelu),
    "awp": Family(awp, ("0.0005", "0.001", "0.005", "0.01", "0.015", "0.02", "0.01-7")),
    "sam": Family(sam, ("0.05",)),
    "trades": Family(trades, ("1", "3", "6", "9")),
    "mart": Family(mart, ("1", "3", "6", "9")),
    "self-supervision": Family(self_supervision, ("0.5", "1", "2", "4", "8")),
    "unlabeled": Family(unlabeled),
}


def listed() -> list[tuple[str, Family]]:
    """All methods of the paper, and some more: names and families."""
    return [
        (f"{name}-{numbers}" if numbers else name, family)
        for name, family in METHODS.items()
        for numbers in family.numbers
    ]


def names() -> list[str]:
    """Those of `listed`."""
    return [name for name, _ in listed()]


def apply(config: ConfigDict, name: str) -> ConfigDict:
    """`config` with the overrides of the methods in `name` (default "at").

    Raises:
      UserError: there is no such method, or two of them set the same field.
    """
    name = name or "at"
    original = config.copy_and_resolve_references()
    chosen: dict[str, str] = {}
    for part in dict.fromkeys(name.split("+")):
        for field, value in _set_by(original, part).items():
            other = chosen.setdefault(field, part)
            if other != part:
                raise UserError(f"methods {other} and {part} both set config.{field}: choose one")
            section, _, key = field.rpartition(".")
            with config.unlocked():
                (config[section] if section else config)[key] = value
    config.name = name
    return config


def _set_by(config: ConfigDict, name: str) -> dict[str, Any]:
    """The fields that a method sets, to other values or the same ones."""
    changed = config.copy_and_resolve_references()
    _change(changed, name)
    # What is set to the value that it has shows on a config whose values are all others.
    others = config.copy_and_resolve_references()
    for field, value in _fields(others):
        section, _, key = field.rpartition(".")
        if field != "train.epochs":  # which others are shares of
            with others.unlocked(), others.ignore_type():
                (others[section] if section else others)[key] = _another(value)
    before = dict(_fields(others)), dict(_fields(config))
    _change(others, name)
    after = dict(_fields(others)), dict(_fields(changed))
    differs = (
        field
        for field in after[1]
        if any(old[field] != new[field] for old, new in zip(before, after, strict=True))
    )
    return {field: after[1][field] for field in differs}


def _another(value: Any) -> Any:
    """A value of the same type that no method sets."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}?"
    return (*value, -7) if isinstance(value, tuple) else value + 1234567


def _change(config: ConfigDict, name: str) -> None:
    """One method's overrides."""
    match = re.fullmatch(r"([a-z]+(?:-[a-z]+)*?)((?:-x?[0-9.]+)*)", name)
    family = match[1] if match else name
    change = choose("method", family, METHODS).change
    parameters = list(inspect.signature(change).parameters.values())[1:]
    texts = (match[2] if match else "").split("-")[1:]
    if family == "cyclic":
        texts = [text.removeprefix("x") if text.startswith("x") else "" for text in texts]
    try:
        arguments = [p.annotation(text) for p, text in zip(parameters, texts, strict=False)]
    except ValueError:
        arguments = []
    needed = sum(p.default is inspect.Parameter.empty for p in parameters)
    if not needed <= len(texts) <= len(parameters) or len(arguments) != len(texts):
        numbers = ", ".join(f"{family}-{n}" if n else family for n in METHODS[family].numbers)
        raise UserError(f"method {name!r} must be like {numbers}")
    with config.unlocked():
        change(config, *arguments)


def _fields(config: ConfigDict, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            found += _fields(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _epochs(config: ConfigDict, epochs: int) -> int:
    """So many of the study's epochs, as a share of the config's."""
    return round(epochs * config.train.epochs / _EPOCHS)


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """What the paper got (Tables B to E).

    Attributes:
      method: the name here, or "" for the networks of RobustBench (Tables B and C).
      zoo: the name of such a network in `rfm.models.zoo`, else "".
      title: the row's name in the tables.
      values: errors in percent, losses and flatness, by the column of ``paper.csv``; None
        where the tables have none.
    """

    method: str
    zoo: str
    title: str
    values: Mapping[str, float | None]

    @property
    def group(self) -> str:
        """By RErr against AutoAttack (Section H): good, average, poor or worse robustness."""
        error = self.values["rerr_aa_test"] or 0.0
        limits = ((57.0, "good"), (60.0, "average"), (62.8, "poor"))
        return next((name for limit, name in limits if error <= limit), "worse")


def paper() -> list[PaperRow]:
    """The rows of Tables D and E, then those of Tables B and C."""
    text = importlib.resources.files("rfm.configs").joinpath("paper.csv").read_text()
    rows = []
    for row in csv.DictReader(text.splitlines()):
        method, title = row.pop("method"), row.pop("title")
        row.pop("table")
        values = {name: float(value) if value else None for name, value in row.items()}
        kind, _, network = method.partition(":")
        method = "" if kind == "zoo" else method
        rows.append(PaperRow(method, network, title, values))
    return rows
