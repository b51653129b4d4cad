"""Which runs a sweep has."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rfm.cli.config import resolve
from rfm.configs import methods
from rfm.errors import UserError

ALL, PAPER = "all", "paper"


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run.

    Attributes:
      name: of its folder, "cifar10-at-seed0".
      workdir: its folder.
      config: what is in its config.json.
      flags: further ones of its command.
      shown: the command that a person would give.
    """

    name: str
    workdir: Path
    config: dict[str, Any]
    flags: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    @property
    def command(self) -> tuple[str, ...]:
        """What runs it: by the config in its folder, whatever becomes of a config's file."""
        return (
            *(sys.executable, "-m", "rfm", "run", "--workdir", str(self.workdir)),
            *("--distributed", "off"),
            *self.flags,
        )

    @property
    def digest(self) -> str:
        """Of its config and flags: others are another run."""
        content = json.dumps(self.config, sort_keys=True) + "".join(self.flags)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def epochs(self) -> int:
        """Of its training."""
        return int(self.config["train"]["epochs"])


def plan(
    configs: str,
    chosen: str | None,
    seeds: Sequence[int],
    overrides: Sequence[str],
    workdir: Path,
    *,
    flags: Sequence[str] = (),
) -> list[Planned]:
    """Every config with every method and seed, seeds last.

    Args:
      configs: names or files, joined by commas, perhaps with a method each.
      chosen: methods, joined by commas; "all" (``rfm methods``), "paper" (Tables D and E); None:
        those of the configs.
      seeds: of each.
      overrides: ``--config.FIELD=VALUE``, of all runs.
      workdir: the folder of their folders.
      flags: of ``rfm run``, of all runs.

    Raises:
      UserError: a config, a method or a field does not exist, or two runs have the same name.
    """
    if any(override.startswith("--config.seed=") for override in overrides):
        raise UserError("--config.seed: a sweep has --seeds N, from 0")
    planned: dict[str, Planned] = {}
    for seed in seeds:
        for spec in _specs(configs, chosen):
            of_run = [*overrides, f"--config.seed={seed}"]
            config, default = resolve(spec, None, of_run)
            if given := config.model.weights or config.model.exported:
                raise UserError(f"a sweep trains, and {given} is only measured: rfm run does that")
            name = f"{default.name}-seed{seed}"
            if name in planned:
                raise UserError(f"two runs of the sweep are called {name}; name each config once")
            folder = workdir / name
            shown = ("rfm", "run", "--config", spec, "--workdir", str(folder), *of_run, *flags)
            planned[name] = Planned(name, folder, config.to_dict(), tuple(flags), shown)
    return list(planned.values())


def _specs(configs: str, chosen: str | None) -> list[str]:
    specs = [spec for spec in configs.split(",") if spec]
    if chosen is None:
        return specs
    if methodical := [spec for spec in specs if ":" in Path(spec).name]:
        raise UserError(f"--methods and --config {methodical[0]}: name its method in one of them")
    names = [name for name in chosen.split(",") if name]
    if names == [ALL]:
        names = methods.names()
    elif names == [PAPER]:
        names = sorted({row.method for row in methods.paper() if row.method})
    for name in names:
        if name in (ALL, PAPER):
            raise UserError(f"--methods {name} names all of them: give nothing beside it")
    return [f"{spec}:{name}" for spec in specs for name in names]
