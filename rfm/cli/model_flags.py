"""``--model``, ``--weights`` and ``--exported``: which model a command is about."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rfm.errors import UserError

ZOO = "zoo:"
_ZOO_CONFIG = "cifar10"  # that of the data of all networks in the zoo


@dataclasses.dataclass(frozen=True)
class ModelFlags:
    """What was given.

    Attributes:
      model: an architecture, or ``zoo:NAME``.
      weights: a file of weights.
      exported: a file of a model that ``rfm export`` wrote.
    """

    model: str | None = None
    weights: str | None = None
    exported: str | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "ModelFlags":
        """Those of a command line; verbs that have none of them leave them out."""
        given = {field.name: getattr(arguments, field.name, None) for field in _FIELDS}
        return cls(**given)

    @property
    def zoo(self) -> str | None:
        """The name in the zoo, if it is one of there."""
        if self.model is None or not self.model.startswith(ZOO):
            return None
        return self.model.removeprefix(ZOO)

    @property
    def config(self) -> str | None:
        """The config that goes with it, if none is given."""
        return None if self.zoo is None else _ZOO_CONFIG

    def workdir(self, config: str | None) -> str | None:
        """The folder that goes with it, if none is given; None: that of the config."""
        if self.exported is not None:
            return f"runs/exported-{Path(self.exported).stem}"
        if self.zoo is not None:
            stem = Path((config or _ZOO_CONFIG).partition(":")[0]).stem
            return f"runs/zoo-{self.zoo}" + ("" if stem == _ZOO_CONFIG else f"-{stem}")
        return None if self.weights is None else f"runs/weights-{Path(self.weights).stem}"

    def check(self) -> None:
        """Do they make sense together?

        Raises:
          UserError: they do not, or the zoo has no such network.
        """
        if self.exported is not None and (self.model is not None or self.weights is not None):
            other = "--weights" if self.model is None else "--model"
            raise UserError(f"--exported is a whole model, {other} describes another: give one")
        if self.zoo is not None:
            _entry(self.zoo)

    def change(self, config: ConfigDict) -> None:
        """Sets the fields of a config that are about the model.

        A file of weights that ``rfm export`` wrote has a JSON beside it that says what model it
        is of; of other files the flags and the config say it.

        Raises:
          UserError: that JSON is damaged, or says that the weights are of another model.
        """
        section = config.model
        if self.exported is not None:
            section.exported = _absolute(self.exported)
        wanted: dict[str, Any] = {} if self.model is None else {"name": self.model}
        if self.zoo is not None:
            wanted = _entry(self.zoo).arguments
        if self.weights is not None:
            wanted = _described(self.weights, wanted)
            section.weights = _absolute(self.weights)
            config.name = Path(self.weights).stem
        if self.zoo is not None:
            section.zoo = config.name = self.zoo
        section.update(wanted)

    def finish(self, config: ConfigDict) -> None:
        """Checks a config with all its changes.

        Raises:
          UserError: a network of the zoo has no weights; says where they are.
        """
        if config.model.weights:
            config.model.weights = _absolute(config.model.weights)
        elif self.zoo is not None:
            entry = _entry(self.zoo)
            raise UserError(
                f"--model {ZOO}{entry.name} needs --weights FILE: download {entry.file} from"
                f" {entry.url}"
            )


_FIELDS = dataclasses.fields(ModelFlags)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _entry(name: str) -> Any:
    from rfm.models import zoo  # a second of imports, which other commands need not wait for

    return zoo.find(name)


def _described(path: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The fields that a file of weights says itself, and those that are wanted."""
    from rfm.models import imported  # likewise

    about = imported.about(path)
    if about is None:
        return wanted
    for field, value in wanted.items():
        its = about.arguments[field]
        if its != value:
            raise UserError(
                f"{about.path} says that these weights are of model.{field} {its!r}, and --model"
                f" that they are of {value!r}: leave --model out, or delete that file"
            )
    return {**about.arguments, **wanted}


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the three flags, for verbs that measure."""
    add_weights(parser)
    parser.add_argument(
        "--exported",
        metavar="FILE",
        help="measure the model that rfm export wrote, on the data of --config",
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Adds the two that describe a model of this library."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="an architecture (config.model.name), or zoo:NAME, a published network (rfm zoo lists"
        " them)",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="measure the model with the weights in a .pt, .pth, .safetensors or .npz, on the data"
        " of --config",
    )
