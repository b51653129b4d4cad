"""What `benchmarks.scale` measures on which platform, in order: pure functions, nothing runs."""

import argparse
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.scale_table import (
    AUTOATTACK,
    EPOCHS,
    MEASURES,
    SNAPSHOTS,
    TRAINING_SET,
    UTILISATION,
)
from benchmarks.workload import Workload

PARTS = ("throughput", "torch", "mfu", "compile", "outside", "row", "scaling")
WIDE = ("wrn28", 160)  # WRN-28-10
_ALONE, _RUN = "benchmarks.scale_parts", "benchmarks.scale_run"
# The command line asks for deterministic operations, which turns autotuning off, too.
AUTOTUNED = "--xla_gpu_deterministic_ops=false --xla_gpu_exclude_nondeterministic_ops=true"


@dataclasses.dataclass(frozen=True)
class Piece:
    """One measurement.

    Attributes:
      part: of `PARTS`.
      name: its row.
      function: "module:function", of `benchmarks.scale_parts` or `benchmarks.scale_run`.
      settings: its arguments, representable in JSON; the row keeps them.
      environment: variables on top of this process's; the row keeps them.
      processes: of one job, which all do the same.
      extra: what else the row is to say of its settings.
      missing: why it cannot be measured, if so.
    """

    part: str
    name: str
    function: str
    settings: Mapping[str, Any]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    processes: int = 1
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    missing: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What suits a platform.

    Attributes:
      networks: names and widths.
      kinds: batch sizes and dtypes.
      steps: per dispatch, by batch size.
      repeats: timed calls.
      config: of `outside` and `row`, "file:method" and fields.
      loop_epochs: of `outside`: those between two snapshots of the config.
      row_epochs: of a whole row by that config.
      sizes: of matrices, by dtype.
    """

    networks: tuple[tuple[str, int], ...]
    kinds: tuple[tuple[int, str], ...]
    steps: Mapping[int, int]
    repeats: int
    config: Mapping[str, Any]
    loop_epochs: int
    row_epochs: int
    sizes: Mapping[str, tuple[int, ...]]


def plan(on_gpu: bool, options: argparse.Namespace) -> Plan:
    """The settings, those of the command line before those of the platform."""
    width = options.width or (64 if on_gpu else 16)
    networks, repeats = ((options.network, width), WIDE), options.repeats
    if on_gpu:
        kinds = ((1024, "bfloat16"), (128, "bfloat16"), (1024, "float32"), (128, "float32"))
        steps = {1024: 48, 128: 65}  # an epoch; what configs have
        config = {"file": "cifar10:at", "train.batch_size": 1024, "model.dtype": "bfloat16"}
        sizes = {"bfloat16": (4096, 8192, 16384), "float32": (8192,)}
        return Plan(networks, kinds, steps, repeats, config, 5, EPOCHS, sizes)
    batch = options.batch or 128
    config = {"file": "cifar10_small:at", "model.width": width}
    if options.quick:
        config |= {"data.train_examples": 512, "evaluation.batch_size": 32, "train.batch_size": 32}
        config |= {"validation.examples": 32, "train.steps_per_dispatch": 8}
    sizes = {"float32": (2048,)}
    return Plan(networks, ((batch, "float32"),), {batch: 2}, repeats, config, 3, 12, sizes)


def pieces(about: Mapping[str, Any], options: argparse.Namespace, data: str) -> Iterator[Piece]:
    """All measurements, in order; `about` is what `scale_parts.about` found."""
    on_gpu = about["platform"] == "gpu"
    chosen = plan(on_gpu, options)

    def workload(network: str, width: int, batch: int, dtype: str, **other: Any) -> dict[str, Any]:
        asked = {"kind": "at_step", "network": network, "width": width, "batch": batch}
        asked |= {"dtype": dtype, "times": chosen.steps.get(batch, 2), "data": options.data}
        # Whole batches: PyTorch would compile anew for the rest.
        asked |= {"examples": TRAINING_SET // batch * batch}
        asked |= {"device": "cuda" if on_gpu else "cpu", **other}
        return dataclasses.asdict(Workload(**asked))

    (network, width), repeats = chosen.networks[0], chosen.repeats
    for batch, dtype in chosen.kinds:
        settings = {"workload": workload(network, width, batch, dtype), "repeats": repeats}
        name = f"{network}, width {width}, batch {batch}, {dtype}"
        yield Piece("throughput", name, f"{_ALONE}:throughput", settings)
        if on_gpu and (batch, dtype) == chosen.kinds[0]:
            flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {AUTOTUNED}".strip()}
            yield Piece("throughput", f"{name}, autotuned", f"{_ALONE}:throughput", settings, flags)
    for wide, its in chosen.networks[1:]:
        for batch, dtype in chosen.kinds:
            settings = {"workload": workload(wide, its, batch, dtype), "repeats": repeats}
            missing = "" if on_gpu else "needs a GPU"
            name = f"{wide}, width {its}, batch {batch}, {dtype}"
            yield Piece("throughput", name, f"{_ALONE}:throughput", settings, missing=missing)
    yield from _torch(about, chosen, options, workload)
    settings = {"networks": chosen.networks, "sizes": chosen.sizes, "repeats": repeats}
    yield Piece("mfu", UTILISATION, f"{_ALONE}:utilisation", settings)
    settings = {"workload": workload(network, width, *chosen.kinds[0]), "repeats": 1}
    cache = {"XDG_CACHE_HOME": "compilations"}  # a folder of this call, empty at first
    for name in ("empty cache", "the same in a new process"):
        yield Piece("compile", name, f"{_ALONE}:throughput", settings, cache)
    config, name = {**chosen.config, "data.source": data}, f"{chosen.config['file']}"
    per_epoch = config.get("data.train_examples") or (TRAINING_SET if on_gpu else 5000)
    batch = config.get("train.batch_size", 64)
    settings = {"config": config, "steps": chosen.loop_epochs * (per_epoch // batch)}
    snapshots = {"train.snapshot_every": chosen.loop_epochs}
    settings["config"] = config | snapshots
    yield Piece(
        "outside", name, f"{_RUN}:outside", settings, extra={"row_epochs": chosen.row_epochs}
    )
    yield Piece("row", MEASURES, f"{_RUN}:measures", {"config": config, "snapshot": False})
    yield Piece("row", SNAPSHOTS, f"{_RUN}:measures", {"config": config, "snapshot": True})
    long = "" if on_gpu or options.autoattack else "takes minutes on a CPU (`--autoattack`)"
    yield Piece("row", AUTOATTACK, f"{_RUN}:autoattack", {"config": config}, missing=long)
    yield from _scaling(about, options, workload)


def _torch(
    about: Mapping[str, Any],
    chosen: Plan,
    options: argparse.Namespace,
    workload: Callable[..., dict[str, Any]],
) -> Iterator[Piece]:
    """A step beside PyTorch's, eager and compiled."""
    on_gpu, (network, width) = about["platform"] == "gpu", chosen.networks[0]
    missing = "" if about["torch"] else "no PyTorch (`--peer-python`)"
    if on_gpu and about["torch"] and not about["torch_cuda"]:
        missing = "this PyTorch has no CUDA (`--peer-python`)"
    for batch, dtype in chosen.kinds:
        if dtype == "float32" and on_gpu:
            continue  # the aims are for bfloat16
        for compiled in (False, True):
            # Fewer steps than in a dispatch of training: three sides share the time.
            times = max(1, chosen.steps[batch] // 4) if on_gpu else 1
            asked = workload(network, width, batch, dtype, compiled=compiled, times=times)
            settings = {"workload": asked, "repeats": chosen.repeats}
            settings["peer_python"] = options.peer_python
            mode = "torch.compile" if compiled else "eager"
            name = f"{mode}, batch {batch}, {dtype}"
            yield Piece("torch", name, f"{_ALONE}:beside_torch", settings, missing=missing)


def _scaling(
    about: Mapping[str, Any], options: argparse.Namespace, workload: Callable[..., dict[str, Any]]
) -> Iterator[Piece]:
    """Fixed batches and fixed batches per device; over devices of a process, over processes."""
    several = about["platform"] == "gpu" and about["devices"] > 1
    counts = [d for d in (1, 2, 4, 8) if d <= (about["devices"] if several else options.most)]
    batches = {
        "strong": lambda count: options.scaling_batch,
        "weak": lambda count: options.scaling_batch // 4 * count,
    }
    # The largest last: many processes on few cores take longest, and time may be up.
    for count, kind in itertools.product(counts, batches):
        batch = batches[kind](count)
        for processes in (1, count) if count > 1 else (1,):
            if several:
                chips = ",".join(map(str, range(count)))
                environment = {} if processes > 1 else {"CUDA_VISIBLE_DEVICES": chips}
                asked = workload("resnet18", 64, 8 * batch, "bfloat16", times=16, examples=0)
            else:
                # A device to a core, as the command line arranges it.
                flags = f"--xla_force_host_platform_device_count={count // processes}"
                environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
                width = options.scaling_width
                asked = workload("resnet8", width, batch, "float32", times=2, examples=0)
            name = f"{kind}, {count} device{'s'[: count - 1]}"
            name += f", {processes} processes" if processes > 1 else ""
            settings = {"workload": asked, "repeats": options.repeats}
            extra = {"kind": kind}
            yield Piece(
                "scaling", name, f"{_ALONE}:throughput", settings, environment, processes, extra
            )
