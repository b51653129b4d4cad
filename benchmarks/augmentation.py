"""What AutoAugment costs beside the rest of a step: ``python -m benchmarks.augmentation``.

Times the augmentation of a batch alone, by flips and crops and by AutoAugment's policy with
Cutout on top, and a whole step of adversarial training of ResNet-18 with either, in turns, in
one process, without compilation.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import report
from benchmarks.harness import cores, in_turns

RESULTS = report.RESULTS / "augmentation"
BEGIN, END = "<!-- augmentation: written by benchmarks.augmentation -->", "<!-- end -->"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per batch of 128, by what is done."""
    import jax
    import jax.numpy as jnp

    from benchmarks import rfm_side
    from benchmarks import workload as given
    from rfm.data.augment import FlipAndCrop, augment
    from rfm.data.autoaugment import AutoAugment, Cutout, Sequence
    from rfm.devices import make_mesh, shard

    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    asked = given.Workload("at_step", options.width, 1, device=platform)
    mesh = make_mesh(asked.batch)
    pixels, _ = given.images(asked, asked.batch)
    images = shard(jnp.asarray(pixels), mesh)
    keys = shard(jax.random.split(jax.random.key(0), asked.batch), mesh)
    plain = FlipAndCrop(flip=True, crop=given.CROP)
    policy = Sequence((plain, AutoAugment(), Cutout()))
    calls: dict[str, Callable[[], Any]] = {}
    for name, augmentation in (("flips and crops", plain), ("AutoAugment and Cutout", policy)):
        alone = jax.jit(lambda images, keys, by=augmentation: augment(by, images, keys))
        calls[name] = lambda alone=alone: alone(images, keys)
        step = rfm_side.training(asked, change=lambda m, by=augmentation: dataclasses.replace(
            m, augmentation=by))  # fmt: skip
        calls[f"AT step with {name}"] = step
    waiting = {n: lambda call=call: jax.block_until_ready(call()) for n, call in calls.items()}
    return {
        "seconds": in_turns(waiting, options.repeats),
        "width": options.width,
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "environment": report.describe_environment(),
    }


def markdown(found: dict[str, Any]) -> str:
    """The table of one device."""
    environment = found["environment"]
    lines = [
        f"Milliseconds per batch of 128, medians of {len(next(iter(found['seconds'].values())))}"
        f" (minimum to maximum); ResNet-18 of width {found['width']}. {found['devices']};"
        f" {environment['cpu']}, {environment['cores']} cores; jax {found['jax']}; revision"
        f" {environment['git']}.",
        "",
        "| | ms |",
        "|---|---:|",
    ]
    for name, times in found["seconds"].items():
        low, middle, high = (1e3 * f(times) for f in (min, statistics.median, max))
        lines.append(f"| {name} | {middle:.1f} ({low:.1f} to {high:.1f}) |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augmentation", description=__doc__)
    parser.add_argument("--width", type=int, default=16, help="of ResNet-18 (16)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each (5)")
    options = parser.parse_args()
    flags = f"--xla_force_host_platform_device_count={cores()}"
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
    found = measure(options)
    RESULTS.mkdir(parents=True, exist_ok=True)
    environment, on_cpu = found["environment"], "cpu" in found["devices"]
    device = environment["cpu"] if on_cpu else found["devices"]
    path = RESULTS / f"{report.slug(device, environment['cores'] if on_cpu else None)}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    report.render_records(RESULTS, (BEGIN, END), markdown)
    print(markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
