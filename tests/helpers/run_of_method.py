"""Runs of methods with the numbers that findings are asked of."""

from typing import Any

VALIDATION = tuple(
    {"kind": "validation", "step": step, "epoch": step / 100, "rerr": rerr, "rloss": 2.0}
    for step, rerr in ((2000, 0.6), (4000, 0.5), (6000, 0.7))
)
"""Early stopping stops at step 4000 of 6000."""
_VALUES = {"evaluation": "rloss", "curvature": "lambda_max"}


def make_run(
    sweep: Any,
    name: str,
    flat: float | None,
    rloss: float,
    seed: int = 0,
    *,
    path: str | None = None,
    stop: tuple[float, float] | None = None,
    config: dict[str, Any] | None = None,
    **values: float,
) -> Any:
    """A run of the method `name`, measured at the end.

    Args:
      sweep: the fixture.
      name: of the method.
      flat, rloss: average-case flatness and RLoss.
      seed: of training.
      path: of the run.
      stop: flatness and RLoss where early stopping stops.
      config: more of it.
      **values: of other records, by their names with underscores.
    """
    run = sweep(path or f"{name}-{seed}", name, seed, flat=flat, rloss=rloss, **(config or {}))
    run.metrics(*VALIDATION)
    if stop is not None:
        place = {"run": name, "step": 4000, "epoch": 40.0, "checkpoint": "best"}
        entry = run.evaluation("test", **place) | {"adversarial": None}
        entry["values"]["rloss"]["value"] = stop[1]
        run.records(entry, run.flatness("average", "rloss", stop[0], 0.1, **place))
    for of, value in values.items():
        record(run, of.replace("_", "-"), _VALUES.get(of.split("_")[0], "flatness"), value,
               run=name)  # fmt: skip
    return run


def record(
    files: Any,
    name: str,
    key: str,
    value: float,
    rescaled: float | None = None,
    **changes: Any,
) -> None:
    """Adds a record of one value to a run."""
    entry = files.evaluation("test", **changes) | {"adversarial": None, "name": name}
    entry |= {"kind": name.split("-")[0]}
    if rescaled is not None:
        entry["protocol"] = entry["protocol"] | {"rescaled": rescaled}
    entry["values"] = {key: {"value": value, "standard_error": None, "examples": 256}}
    files.records(entry)
