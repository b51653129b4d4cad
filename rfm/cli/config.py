"""From ``--config`` and its overrides to a config."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import rfm.configs
from rfm import workdir as workdirs
from rfm.cli.model_flags import ModelFlags
from rfm.configs import base
from rfm.errors import UserError, did_you_mean

_NO_FLAGS = ModelFlags()
_SHIPPED = Path(rfm.configs.__file__).parent
_NOT_RUN = ("__init__", "base", "methods")
_DEFAULT = "digits"
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a tuple such as (1, 2)",
}


def resolve(
    spec: str | None,
    workdir: str | None,
    overrides: Sequence[str],
    *,
    model: ModelFlags = _NO_FLAGS,
) -> tuple[ConfigDict, Path]:
    """The config and the workdir of a command.

    Args:
      spec: what was given as ``--config``, if anything.
      workdir: what was given as ``--workdir``, if anything.
      overrides: ``--config.FIELD=VALUE``.
      model: what was given of ``--model``, ``--weights`` and ``--exported``.

    Raises:
      UserError: no such file, method or field, a value of the wrong type, or flags that do not
        go together.
    """
    model.check()
    workdir = model.workdir(spec) if workdir is None else os.path.expanduser(workdir)
    stored = workdirs.read_config(Path(workdir)) if workdir and spec is None else None
    if workdir and stored is not None:
        config, default, source = _completed(stored), workdir, workdir
    else:
        config, default, source = _load(os.path.expanduser(spec or model.config or _DEFAULT))
    _check_fields(config, f"config of {source}")
    model.change(config)
    for override in overrides:
        _override(config, override)
    model.finish(config)
    return config, Path(workdir or default.format(name=config.name))


def _load(spec: str) -> tuple[ConfigDict, str, str]:
    """The config, a template of its default workdir, and its file."""
    path, method = _find(spec)
    found = importlib.util.spec_from_file_location(f"rfm_config_{path.stem}", path)
    if found is None or found.loader is None:
        raise UserError(f"config {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
        config = module.get_config(method) if method else module.get_config()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        if isinstance(error, AttributeError) and not hasattr(module, "get_config"):
            raise UserError(f"config {path} has no function get_config(method)") from None
        raise UserError(
            f"config {path} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"config {path}: get_config must return an ml_collections.ConfigDict")
    return config, f"runs/{path.stem}-{{name}}", str(path)


def _find(spec: str) -> tuple[Path, str]:
    """The file and the method that ``--config`` means."""
    if Path(spec).is_file():  # its name may have a colon
        return Path(spec), ""
    name, _, method = spec.partition(":")
    given = Path(name)
    if given.is_file():
        return given, method
    shipped = _SHIPPED / f"{given.stem}.py"
    names = sorted(p.stem for p in _SHIPPED.glob("*.py") if p.stem not in _NOT_RUN)
    if given.parent in (Path("."), Path("configs")) and given.stem in names:
        return shipped, method
    raise UserError(
        f"no config {name!r}{did_you_mean(given.stem, names)}; give a Python file or one of"
        f" {', '.join(names)}"
    )


def _check_fields(config: ConfigDict, source: str) -> None:
    """Has the config all fields of `rfm.configs.base`, of their types, and no others?"""
    expected, found = _fields(base.get_config()), _fields(config)
    for name in expected:
        if name not in found:
            raise UserError(f"{source} lacks the field {name}; start from rfm.configs.base")
    for name, value in found.items():
        if name not in expected:
            hint = did_you_mean(name, expected)
            raise UserError(f"{source} has a field {name} that rfm does not know{hint}")
        _check_type(f"{source}: config.{name}", value, expected[name])


def _check_type(what: str, value: Any, expected: Any) -> None:
    allowed = (int, float) if isinstance(expected, float) else type(expected)
    if not isinstance(value, allowed) or isinstance(value, bool) != isinstance(expected, bool):
        raise UserError(f"{what} must be {_KINDS[type(expected)]}, got {value!r}")
    if isinstance(value, tuple):
        for entry in value:
            _check_type(f"{what}: each entry", entry, expected[0] if expected else 0.0)


def _override(config: ConfigDict, override: str) -> None:
    """Changes one field."""
    fields = _fields(config)
    name, _, text = override.removeprefix("--config.").partition("=")
    if name not in fields:
        within = [field for field in fields if field.startswith(f"{name}.")]
        if within:
            raise UserError(f"config.{name} is a section; give one of {', '.join(within)}")
        raise UserError(f"no field config.{name}{did_you_mean(name, fields, 'config.')}")
    values, arguments = flags.FlagValues(), ["rfm", override]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    old = fields[name]
    try:
        values(arguments)
    except (flags.Error, TypeError, ValueError, AttributeError):
        kind = _KINDS[type(old)]
        raise UserError(f"config.{name} must be {kind}, got {text!r}") from None
    _check_type(f"config.{name}", _fields(config)[name], _fields(base.get_config())[name])


def _fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            fields.update(_fields(value, f"{prefix}{key}."))
        else:
            fields[f"{prefix}{key}"] = value
    return fields


def _completed(stored: Mapping[str, Any]) -> ConfigDict:
    """A stored config; fields that rfm did not have yet get their defaults."""
    config = base.get_config()
    _fill(config, _with_tuples(stored))
    return config


def _fill(config: ConfigDict, stored: Mapping[str, Any]) -> None:
    for key, value in stored.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), ConfigDict):
            _fill(config[key], value)
        else:
            with config.unlocked(), config.ignore_type():
                config[key] = value


def _with_tuples(stored: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where configs have tuples."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return {k: convert(v) for k, v in stored.items()}
