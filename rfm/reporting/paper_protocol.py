"""How ours was trained and measured where the paper says how it was done there.

Each choice has a title, ours in words and the paper's in the same words, so that what differs
is what reads differently. The paper's are those of Sections D, F and H of the supplement; what a
method itself changes (its batch size, its epsilon) is no difference.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from rfm.reporting.caption import inputs_text, weights_text
from rfm.reporting.protocol import attack_text, epsilon_text, setting, threat_text
from rfm.reporting.records import Record, count

DATA = "CIFAR-10"
BALL = "L∞, ε = 8/255"
_PGD = {"name": "pgd", "norm": "linf", "epsilon": 8 / 255, "steps": 20, "step_size": 0.007}
_EVALUATION = {**_PGD, "restarts": 10}
_FLATNESS: Mapping[str, Mapping[str, Any]] = {
    "average": {"ball": {"radius": 0.5, "per": "layer"}, "samples": 10},
    "worst": {
        "ball": {"radius": 0.003, "per": "layer"},
        **{"steps": 20, "restarts": 10, "weight_step_size": 0.001},
    },
}
_ROBUST: Mapping[str, Mapping[str, Any]] = {
    "average": {"attack": {**_PGD, "restarts": 1}, "reference": _EVALUATION},
    "worst": {
        "threat": {"norm": "linf", "epsilon": 8 / 255},
        **{"input_step_size": 0.007, "reference": _EVALUATION},
    },
}
"""Beside that, of flatness of RLoss."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """One thing that the paper says: ours and the paper's, in words."""

    title: str
    ours: str
    papers: str


def data_text(source: object) -> str:
    """A data set by name, without the folder where it is; "" if nobody says."""
    stem = PurePath(str(source or "").removeprefix("tfds:")).name.partition(".")[0]
    return DATA if stem.lower().replace("-", "").replace("_", "") == "cifar10" else stem


def of_record(record: Record) -> Iterator[Choice]:
    """What a record's protocol says."""
    protocol = record.protocol
    yield Choice("data", data_text(setting(protocol, "source")), DATA)
    yield Choice("number format", str(protocol.get("dtype") or ""), "float32")
    if record.kind == "evaluation":
        attack = protocol.get("attack")
        attacked = "attack of RErr and RLoss (PGD)"
        yield Choice(attacked, attack_text(attack) if attack else "", attack_text(_EVALUATION))
        yield _examples(record, "err", "examples of Err and Loss", "10,000")
        yield _examples(record, "rerr", "attacked examples", "1,000")
    elif record.kind == "attack":
        stages = ", ".join(str(stage.get("stage")) for stage in protocol.get("stages") or ())
        ours = f"{stages}; {threat_text(protocol)}" if stages else ""
        yield Choice("AutoAttack", ours, f"apgd-ce, apgd-t, fab-t, square; {BALL}")
        yield _examples(record, "rerr", "attacked examples (AA)", "1,000")
    elif record.kind == "flatness":
        yield from _of_flatness(record)


def _examples(record: Record, value: str, title: str, papers: str) -> Choice:
    number = record.value(value).examples
    return Choice(f"{title}, {record.split}", f"{number:,}" if number else "", papers)


def _of_flatness(record: Record) -> Iterator[Choice]:
    _, case, loss, _ = record.name.split("-")
    protocol: dict[str, Any] = {**_FLATNESS[case], **(_ROBUST[case] if loss == "rloss" else {})}
    papers = dataclasses.replace(record, protocol=protocol)
    title = f"{case}-case flatness"
    yield Choice(title, weights_text(record), weights_text(papers))
    if loss == "rloss":
        yield Choice(f"{title} of RLoss", inputs_text(record), inputs_text(papers))
    yield _examples(record, "flatness", "examples of flatness", "1,000")
    size = setting(record.protocol, "batch_size")
    yield Choice("batches of flatness", "" if size is None else str(size), "128")


def of_training(config: Mapping[str, Any], method: str) -> Iterator[Choice]:
    """What the config of a method says; what the method is about is left out."""
    data, model = _section(config, "data"), _section(config, "model")
    yield Choice("data", data_text(data.get("source")), DATA)
    if "train_examples" in data:
        number = count(data["train_examples"])
        yield Choice("training examples", f"the first {number:,}" if number else "all", "all")
    if {"name", "width"} <= model.keys():
        ours = f"{model['name']}, width {model['width']}"
        yield Choice("network", ours, "resnet18, width 64")
    train, cycle = _section(config, "train"), _section(config, "optimiser").get("cycle")
    if cycle:
        yield Choice("epochs in a cycle", str(cycle), "30")
    elif "epochs" in train:
        yield Choice("epochs", str(train["epochs"]), "150")
    for section, field, title, text, papers, families in _TRAINING:
        value = _section(config, section).get(field)
        is_its_own = any(part.startswith(families) for part in method.split("+"))
        if value is not None and not is_its_own:
            yield Choice(title, text(value), papers)


def of_early_stopping(config: Mapping[str, Any]) -> Iterator[Choice]:
    """Which snapshot early stopping picks."""
    validation, train = _section(config, "validation"), _section(config, "train")
    every = train.get("snapshot_every")
    if not validation or every is None:
        return
    attack = {**validation, "name": "pgd", "norm": validation.get("threat")}
    papers = {**_PGD, "steps": 7, "restarts": 5}
    yield Choice(
        "early stopping",
        f"by {attack_text(attack)} on {validation.get('examples')} test examples,"
        f" a snapshot every {every} epoch{'' if every == 1 else 's'}",
        f"by {attack_text(papers)} on 500 test examples, a snapshot every 5 epochs",
    )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    if not isinstance(found, Mapping):
        return {}
    is_plain = name == "adversary" and found.get("name") == "none"
    return {} if is_plain else found


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _epsilon(value: object) -> str:
    return epsilon_text(value) if isinstance(value, int | float) else str(value)


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _flips(value: object) -> str:
    return "yes" if value else "no"


_Text = Callable[[object], str]
_RATES = ("learning-rate", "const-learning-rate", "cyclic", "adam", "entropy-sgd")
_TRAINING: tuple[tuple[str, str, str, _Text, str, tuple[str, ...]], ...] = (
    ("data", "flip", "flips", _flips, "yes", ()),
    ("data", "crop", "crops (pixels per side)", _number, "4", ()),
    ("model", "activation", "activation", str, "relu", ("silu", "mish", "gelu")),
    ("optimiser", "name", "optimiser", str, "sgd", ("adam", "entropy-sgd")),
    ("optimiser", "learning_rate", "learning rate", _number, "0.05", _RATES),
    ("optimiser", "milestones", "learning rate falls at epochs", _listed, "60, 90, 120",
     ("const-learning-rate", "late-multi-step", "cyclic")),
    ("optimiser", "weight_decay", "weight decay", _number, "0.0005",
     ("weight-decay", "no-weight-decay")),
    ("train", "batch_size", "batch size in training", _number, "128", ("batch-size",)),
    ("adversary", "epsilon", "ε in training", _epsilon, "8/255", ("epsilon",)),
    ("adversary", "steps", "steps of PGD in training", _number, "7", ("pgd",)),
    ("adversary", "step_size", "step size of PGD in training", _number, "0.007", ()),
)  # fmt: skip
"""Section, field, title, text, the paper's, and which methods are about it."""
