"""How to go through the draws of a measure: ``python -m benchmarks.mapping``.

Average- and worst-case flatness are made of independent pieces, one batch under one weight
draw or restart. This times the ways to do them: a batch cut over the devices, a piece for
each device, several pieces in one dispatch, weights mapped by `jax.vmap`, and batches merged
(which needs the same draws for all of them: ``fixed``). In turns, in one process, without
compilation.
"""

import argparse
import functools
import json
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import report
from benchmarks.harness import cores, in_turns

RESULTS = report.RESULTS / "mapping"
BEGIN, END = "<!-- mapping: written by benchmarks.mapping -->", "<!-- end of mapping -->"
ALONE = "batch cut over the devices"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per draw of 128 examples, by measure and way."""
    import jax

    device = jax.devices()[0]
    rows = []
    for kind in ("average_case", "worst_case"):
        ways = _ways(kind, options)
        waiting = {
            way: lambda call=call: jax.block_until_ready(call()) for way, (call, _) in ways.items()
        }
        found = in_turns(waiting, options.repeats)
        seconds = {way: [s / ways[way][1] for s in spent] for way, spent in found.items()}
        rows.append({"kind": kind, "seconds": seconds})
    return {
        "rows": rows,
        "width": options.width,
        "steps": options.steps,
        "devices": f"{len(jax.devices())} x {device.device_kind}",
        "jax": jax.__version__,
        "environment": report.describe_environment(),
    }


def _ways(kind: str, options: argparse.Namespace) -> dict[str, tuple[Callable[[], Any], int]]:
    """By name, what to call, and how many draws of a batch of 128 it goes through."""
    import jax
    import jax.numpy as jnp

    import rfm
    from benchmarks import rfm_side
    from benchmarks import workload as given
    from rfm import models
    from rfm.devices import each, make_mesh, replicate, shard
    from rfm.flatness import average, worst

    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    asked = given.Workload(kind, options.width, 1, steps=options.steps, device=platform)
    mesh = make_mesh(asked.batch)
    model, params, stats = rfm_side.network(asked)
    network = replicate((models.apply_fn(model, stats), params), mesh)
    x, y = rfm_side.inputs(asked)
    keys = jax.random.split(jax.random.key(1), asked.batch)
    if kind == "average_case":
        ball = rfm.perturb.RelativeBall(given.AVERAGE_RADIUS)
        settings: Any = (ball, rfm_side.attack(asked, steps=options.steps))
        function, examples = average._loss, (x, y, keys)
    else:
        ball, threat = rfm.perturb.RelativeBall(given.WORST_RADIUS), rfm.threat.linf(given.EPSILON)
        sizes = (given.STEP_SIZE, given.WEIGHT_STEP_SIZE)
        settings = (worst._Ascent(ball, threat, options.steps, *sizes, chunk=None), True)
        function, examples = worst._losses, (x, y, x[:, 0, 0, 0] >= 0, keys)

    @jax.jit
    def alone(network: Any, examples: Any, draw: Any) -> Any:
        return function(settings, network, examples, draw)

    def one(network: Any, piece: Any) -> Any:
        return function(settings, network, *piece)

    together = jax.jit(functools.partial(each, one, mesh=mesh))
    width = mesh.size

    def pieces(count: int) -> Any:
        draws = (jax.random.split(jax.random.key(2), count), jnp.arange(count))
        repeated = jax.tree.map(lambda v: jnp.stack([v] * count), examples)
        return shard((repeated, draws), mesh)

    def mapped(network: Any, piece: Any) -> Any:
        return jax.vmap(lambda piece: one(network, piece))(piece)

    def folded(count: int) -> Any:  # `count` pieces for each device, its weights mapped
        return jax.tree.map(lambda v: v.reshape(width, count, *v.shape[1:]), pieces(count * width))

    vmapped = jax.jit(functools.partial(each, mapped, mesh=mesh))
    draw = (jax.random.key(2), jnp.int32(0))
    cut, single = shard(examples, mesh), pieces(width)
    doubled = shard(jax.tree.map(lambda v: jnp.concatenate([v, v]), examples), mesh)
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        ALONE: (lambda: alone(network, cut, draw), 1),
        "a piece for each device": (lambda: together(network, single), width),
        "two merged batches, cut": (lambda: alone(network, doubled, draw), 2),
    }
    for count in options.chunks:
        work, of_map = pieces(count * width), folded(count)
        name = f"{count} pieces for each device"
        ways[f"{name}, lax.map"] = (functools.partial(together, network, work), count * width)
        ways[f"{name}, vmap"] = (functools.partial(vmapped, network, of_map), count * width)
    return ways


def markdown(found: dict[str, Any]) -> str:
    """The table of one device."""
    environment = found["environment"]
    lines = [
        f"ResNet-18 of width {found['width']}, PGD or joint ascent of {found['steps']} steps;"
        f" seconds per draw (restart) of 128 examples, medians of"
        f" {len(found['rows'][0]['seconds'][ALONE])} (minimum to maximum). {found['devices']};"
        f" {environment['cpu']}, {environment['cores']} cores; jax {found['jax']}; revision"
        f" {environment['git']}.",
        "",
        "| | " + " | ".join(row["kind"] for row in found["rows"]) + " |",
        "|---|" + "---:|" * len(found["rows"]),
    ]
    for way in found["rows"][0]["seconds"]:
        times = [row["seconds"][way] for row in found["rows"]]
        cells = [f"{statistics.median(t):.3g} ({min(t):.3g} to {max(t):.3g})" for t in times]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mapping", description=__doc__)
    parser.add_argument("--width", type=int, default=16, help="of ResNet-18 (16)")
    parser.add_argument("--steps", type=int, default=5, help="of the attack (5)")
    parser.add_argument("--chunks", type=int, nargs="+", default=[2, 4], help="pieces at a time")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each way (3)")
    parser.add_argument("--render", action="store_true", help="only rewrite the README's table")
    options = parser.parse_args()
    if options.render:
        report.render_records(RESULTS, (BEGIN, END), markdown)
        return 0
    flags = f"--xla_force_host_platform_device_count={cores()}"
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
    found = measure(options)
    RESULTS.mkdir(parents=True, exist_ok=True)
    environment, on_cpu = found["environment"], "cpu" in found["devices"]
    device = environment["cpu"] if on_cpu else found["devices"]
    name = report.slug(device, environment["cores"] if on_cpu else None)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    report.render_records(RESULTS, (BEGIN, END), markdown)
    print(markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
