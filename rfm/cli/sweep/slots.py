"""Shares of this machine, one for each run at a time."""

import os
import shutil
import subprocess
from collections.abc import Sequence

from rfm.errors import UserError

Slot = tuple[dict[str, str | None], tuple[int, ...] | None]
"""What a job gets: variables of its environment (None: removed), and processors."""

_VARIABLE = "CUDA_VISIBLE_DEVICES"


def slots(parallel: int, *, gpus: int = 0, cpus: int = 0) -> list[Slot]:
    """One share for each of `parallel` runs.

    Args:
      parallel: how many run at the same time.
      gpus: for each of them; 0: a single run has all.
      cpus: processors for each; 0: an equal share of all.

    Raises:
      UserError: there are not so many, or runs would have to share a GPU.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares = _cores(cores, parallel, cpus)
    before = os.environ.get(_VARIABLE)  # submitit sets it
    names = _gpus()
    if not gpus:
        if parallel > 1 and names:
            raise UserError(
                f"--parallel {parallel} on {len(names)} GPUs: say how many each run gets, such as"
                " --gpus-per-run 1 (two runs on one GPU do not fit)"
            )
        return [({_VARIABLE: before}, share) for share in shares]
    if len(names) < parallel * gpus:
        raise UserError(
            f"--parallel {parallel} --gpus-per-run {gpus} needs {parallel * gpus} GPUs; there are"
            f" {len(names)} (nvidia-smi, {_VARIABLE}={before!r})"
        )
    return [
        ({_VARIABLE: ",".join(names[number * gpus : (number + 1) * gpus])}, share)
        for number, share in enumerate(shares)
    ]


def _cores(cores: Sequence[int], parallel: int, cpus: int) -> list[tuple[int, ...] | None]:
    if cpus:
        if cpus * parallel > len(cores):
            raise UserError(
                f"--parallel {parallel} --cpus-per-run {cpus} needs {cpus * parallel} processors;"
                f" there are {len(cores)}"
            )
        return [tuple(cores[number * cpus : (number + 1) * cpus]) for number in range(parallel)]
    if 1 < parallel <= len(cores):
        return [tuple(cores[number::parallel]) for number in range(parallel)]
    return [None] * parallel


def _gpus() -> list[str]:
    """Names of NVIDIA's GPUs that this process may use."""
    visible = os.environ.get(_VARIABLE)
    if visible is not None:
        return [name for name in visible.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except subprocess.SubprocessError:
        return []
    lines = [line for line in said.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]
