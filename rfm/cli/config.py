"""From ``--config`` and its overrides to a config."""

import difflib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import rfm.configs
from rfm import workdir as workdirs
from rfm.errors import UserError

_SHIPPED = Path(rfm.configs.__file__).parent
_DEFAULT = "digits"


def resolve(
    spec: str | None, workdir: str | None, overrides: Sequence[str]
) -> tuple[ConfigDict, Path]:
    """The config and the workdir of a command.

    Args:
      spec: what was given as ``--config``, if anything.
      workdir: what was given as ``--workdir``, if anything.
      overrides: ``--config.FIELD=VALUE``.

    Raises:
      UserError: no such file, method or field, or a value of the wrong type.
    """
    if workdir and spec is None and (stored := workdirs.read_config(Path(workdir))):
        return _override(ConfigDict(_with_tuples(stored)), overrides), Path(workdir)
    config, default = _load(spec or _DEFAULT)
    return _override(config, overrides), Path(workdir or default)


def _load(spec: str) -> tuple[ConfigDict, str]:
    name, _, method = spec.partition(":")
    path = _find(name)
    try:
        found = importlib.util.spec_from_file_location(f"rfm_config_{path.stem}", path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        config = module.get_config(method) if method else module.get_config()
    except UserError:
        raise
    except Exception as error:  # whatever a user's file raises
        raise UserError(
            f"config {path} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"config {path}: get_config must return an ml_collections.ConfigDict")
    return config, f"runs/{path.stem}-{config.name}"


def _find(name: str) -> Path:
    given = Path(name)
    if given.is_file():
        return given
    shipped = _SHIPPED / f"{given.stem}.py"
    if given.parent in (Path("."), Path("configs")) and shipped.is_file():
        return shipped
    names = sorted(p.stem for p in _SHIPPED.glob("*.py") if p.stem not in _NOT_RUN)
    raise UserError(f"no config {name!r}; give a Python file or one of {', '.join(names)}")


_NOT_RUN = ("__init__", "base", "methods")


def _override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    fields = _fields(config)
    for override in overrides:
        field = override.removeprefix("--config.").partition("=")[0]
        if field not in fields:
            close = difflib.get_close_matches(field, fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"no field config.{field}{hint}")
    values = flags.FlagValues()
    arguments = ["rfm", *overrides]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
    except (flags.Error, TypeError, ValueError, AttributeError) as error:
        raise UserError(str(error)) from None
    overridden: ConfigDict = values.config
    return overridden


def _fields(config: ConfigDict, prefix: str = "") -> list[str]:
    names = []
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            names += _fields(value, f"{prefix}{key}.")
        else:
            names.append(prefix + key)
    return names


def _with_tuples(stored: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where configs have tuples."""
    decoded: dict[str, Any] = json.loads(json.dumps(stored))

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return {k: convert(v) for k, v in decoded.items()}
