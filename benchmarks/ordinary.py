"""Attacks on a network that rfm did not write: ``python -m benchmarks.ordinary``.

On CPU, XLA runs the backward convolutions of an ordinary Flax network slowly inside compiled
loops. The attacks notice such a network and drive their loop from Python. This times what
they choose beside both ways forced, for an ordinary network and for one with the
convolutions of `rfm.models`: seconds per step of APGD and per query of Square, in turns, in one
process, without compilation.
"""

import argparse
import json
import os
import statistics
import sys
from typing import Any

from benchmarks import report
from benchmarks.harness import cores, in_turns

RESULTS = report.RESULTS / "ordinary"
BEGIN, END = "<!-- ordinary: written by benchmarks.ordinary -->", "<!-- end of ordinary -->"
WAYS = {"chosen": None, "one compiled loop": True, "step by step": False}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All times."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    from rfm import loops, threat
    from rfm.attacks import APGD, Square
    from rfm.devices import make_mesh, shard
    from rfm.models.layers import Conv

    class Network(nn.Module):
        """Six 3x3 convolutions, 16 to 64 channels."""

        ordinary: bool

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for features, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
                if self.ordinary:
                    x = nn.Conv(features, (3, 3), stride, use_bias=False)(x)
                else:
                    x = Conv(features, stride=stride)(x)
                x = jax.nn.relu(x)
            return nn.Dense(10)(x.mean((1, 2)))

    # So small a ball that nothing falls: Square would stop when all have.
    mesh, ball = make_mesh(options.batch_size), threat.linf(1e-6)
    x = shard(jax.random.uniform(jax.random.key(0), (options.batch_size, 32, 32, 3)), mesh)
    rows = []
    for ordinary in (True, False):
        network = Network(ordinary)
        logits_fn = jax.tree_util.Partial(network.apply, network.init(jax.random.key(1), x[:1]))
        y = jnp.argmax(logits_fn(x), axis=-1)
        for name, steps in (("apgd", options.steps), ("square", 5 * options.steps)):
            attacks = {
                way: APGD(ball, steps, compiled=compiled)
                if name == "apgd"
                else Square(ball, steps, compiled=compiled)
                for way, compiled in WAYS.items()
            }
            arguments = (logits_fn, x, y, jax.random.key(2))
            waiting = {
                way: lambda attack=attack, where=arguments: jax.block_until_ready(attack(*where))
                for way, attack in attacks.items()
            }
            found = in_turns(waiting, options.repeats)
            seconds = {way: [s / (steps + 1) for s in spent] for way, spent in found.items()}
            gradient = name == "apgd"
            rows.append(
                {
                    "network": "ordinary" if ordinary else "rfm.models' convolutions",
                    "attack": name,
                    "chooses": "one compiled loop"
                    if loops.runs_fast_in_loops(logits_fn, x, gradient=gradient)
                    else "step by step",
                    "seconds": seconds,
                }
            )
            print(rows[-1]["network"], name, rows[-1]["chooses"], flush=True)
    return {
        "rows": rows,
        "batch_size": options.batch_size,
        "steps": options.steps,
        "jax": jax.__version__,
        "environment": report.describe_environment(),
    }


def markdown(found: dict[str, Any]) -> str:
    """The table of one device."""
    environment = found["environment"]
    lines = [
        f"Milliseconds per step (or start) and query for {found['batch_size']} examples, medians"
        f" of {len(found['rows'][0]['seconds']['chosen'])} (minimum to maximum)."
        f" {environment['cpu']}, {environment['cores']} cores; jax {found['jax']}; revision"
        f" {environment['git']}.",
        "",
        "| network | attack | chooses | " + " | ".join(WAYS) + " |",
        "|---|---|---|" + "---:|" * len(WAYS),
    ]
    for row in found["rows"]:
        times = [
            f"{1e3 * statistics.median(row['seconds'][way]):.1f}"
            f" ({1e3 * min(row['seconds'][way]):.1f} to {1e3 * max(row['seconds'][way]):.1f})"
            for way in WAYS
        ]
        cells = [row["network"], row["attack"], row["chooses"], *times]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ordinary", description=__doc__)
    parser.add_argument("--batch-size", type=int, default=128, help="(128)")
    parser.add_argument("--steps", type=int, default=5, help="of APGD; five times as many queries")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each way (3)")
    options = parser.parse_args()
    flags = f"--xla_force_host_platform_device_count={cores()}"
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
    found = measure(options)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "cpu.json").write_text(json.dumps(found, indent=1) + "\n")
    report.replace_region(BEGIN, END, [markdown(found)])
    print(markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
