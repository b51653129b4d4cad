"""What `benchmarks.scale` measures, each piece in a process of its own.

``python -m benchmarks.scale_parts MODULE:FUNCTION SETTINGS FILE`` calls a function of this module
or of `benchmarks.scale_run` with the JSON in SETTINGS and writes what it returns to FILE. Every
piece that trains starts JAX as the command line does (`rfm.cli.environment.arrange`): the flags
and the persistent cache are those that users get.
"""

import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks.harness import in_turns
from rfm.cli.environment import arrange

Found = dict[str, Any]


def about(peer_python: str) -> Found:
    """The devices, the networks, and which PyTorch there is."""
    arrange()
    device = jax.devices()[0]
    asked = "import torch; print(torch.__version__, torch.cuda.is_available())"
    answer = subprocess.run([peer_python, "-c", asked], capture_output=True, text=True)
    words = answer.stdout.split() if answer.returncode == 0 else []
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "torch": words[0] if words else None,
        "torch_cuda": words[1:] == ["True"],
    }


def throughput(workload: Mapping[str, Any], repeats: int, job: Found | None = None) -> Found:
    """Seconds of dispatches of training; as one process of a job, if there is one.

    Args:
      workload: the fields of a `benchmarks.workload.Workload`.
      repeats: dispatches that are timed, after the first.
      job: arguments of ``jax.distributed.initialize``, if it is one of several processes.
    """
    from rfm.evaluation.compiling import CompileTime

    arrange()
    if job:
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(**job, cluster_detection_method="deactivate")
    from benchmarks import rfm_side
    from benchmarks.workload import Workload
    from rfm.devices import fetch, make_mesh

    asked, device, losses = Workload(**workload), jax.local_devices()[0], []
    cached = _cached()  # before the process compiles anything, the initialisation included
    dispatch = rfm_side.training(asked)

    def call() -> None:
        losses.append(fetch(dispatch()[1]["loss"])[asked.times - 1])

    with CompileTime() as compiling:
        start = time.perf_counter()
        call()
        first = time.perf_counter() - start
    # The first turn is not counted either: clocks and caches get warm.
    seconds = in_turns({"dispatch": call}, repeats)["dispatch"]
    if not all(map(math.isfinite, map(float, losses))):
        raise ArithmeticError(f"losses {losses}")
    memory = device.memory_stats() if device.platform != "cpu" else None
    found = {
        "seconds": seconds,  # of a dispatch
        "examples": asked.batch * asked.times,
        "devices": make_mesh(asked.batch).size,
        "processes": jax.process_count(),
        "first_call_seconds": first,
        "compile_seconds": compiling.seconds,
        "cached_before": cached,
        "peak_bytes": memory and memory["peak_bytes_in_use"],
        "losses": list(map(float, losses)),
        "flags": flags(),
    }
    if job:
        jax.distributed.shutdown()
    return found


def beside_torch(workload: Mapping[str, Any], repeats: int, peer_python: str) -> Found:
    """A step by rfm and by PyTorch, in turns: a row of `benchmarks.harness.measure`."""
    from benchmarks import foundation
    from benchmarks.harness import measure
    from benchmarks.workload import Workload

    arrange()  # its flags reach the side of rfm through the environment, and so does the cache
    os.environ["JAX_COMPILATION_CACHE_DIR"] = jax.config.values["jax_compilation_cache_dir"]
    case = foundation.case(Workload(**workload), (sys.executable, peer_python))
    return measure(case, repeats=repeats, say=print)


def utilisation(networks: list[list[Any]], sizes: Mapping[str, list[int]], repeats: int) -> Found:
    """Operations per example of a step by network, and what the device can do by dtype.

    Without the command line's flags: the peak is the device's, by its best product.
    """
    from benchmarks import flops
    from benchmarks import workload as given
    from rfm import models
    from rfm.models.blocks import Bottleneck

    counts = []
    for name, width in networks:
        model = models.create(
            name, classes=given.CLASSES, width=width, mean=given.MEAN, std=given.STD
        )
        by_xla = flops.counted(model)
        shape = {"stages": model.stages, "width": width, "stem": model.stem_width}
        by_hand = {
            key: None
            if model.block is Bottleneck  # three convolutions in a block
            else flops.forward(**shape, classes=given.CLASSES, zeros=zeros)
            for key, zeros in (("forward", False), ("forward_with_zeros", True))
        }
        step = flops.of_step(**by_xla, steps=given.TRAIN_STEPS)
        counts.append(
            {"network": name, "width": width, "xla": by_xla, "by_hand": by_hand, "step": step}
        )
    peaks = {dtype: flops.peak(dtype, tuple(n), repeats) for dtype, n in sizes.items()}
    return {"counts": counts, "peaks": peaks}


def _cached() -> int:
    """Programs in the persistent cache."""
    folder = Path(jax.config.values["jax_compilation_cache_dir"])
    return sum(1 for _ in folder.glob("*-cache")) if folder.is_dir() else 0


def flags() -> str:
    """What XLA was told, by the command line's arrangement and by whoever started this."""
    return os.environ.get("XLA_FLAGS", "")


def main() -> int:
    target, settings, file = sys.argv[1:]
    module, function = target.split(":")
    found = getattr(importlib.import_module(module), function)(**json.loads(settings))
    Path(file).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
