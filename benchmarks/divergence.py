"""How runs on different numbers of devices part, and whether it matters.

    python -m benchmarks.divergence

Adversarial training on the digits from one seed on 1, 2 and 8 simulated devices: how far the
parameters are apart after so many steps, relative to how far they have moved; and the robust
error of the final networks for some seeds. Signs of gradients near zero turn by rounding, so runs
part; what is to be seen is that another layout does no more than another seed.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks import report

RESULTS = Path(__file__).parent / "results" / "divergence"
BEGIN, END = "<!-- divergence: written by benchmarks.divergence -->", "<!-- end of divergence -->"
LAYOUTS = (1, 2, 8)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.divergence", description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 3, 10, 30, 100])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15, help="of the runs that are evaluated")
    parser.add_argument("--render", action="store_true", help="only rewrite the README's table")
    options = parser.parse_args()
    if not options.render:
        os.environ["XLA_FLAGS"] = (
            f"--xla_force_host_platform_device_count={max(LAYOUTS)}"
            " --xla_cpu_multi_thread_eigen=false"
        )
        found = measure(options)
        RESULTS.mkdir(parents=True, exist_ok=True)
        environment = found["environment"]
        name = report.slug(environment["cpu"], environment["cores"])
        (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(markdown(found))
    report.render_records(RESULTS, (BEGIN, END), markdown)
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The record of both parts."""
    import numpy as np

    runs = {layout: _Training(layout, seed=0) for layout in LAYOUTS}
    other = _Training(1, seed=0, order=1)
    apart: dict[str, dict[str, float]] = {}
    done = 0
    for steps in options.steps:
        for run in (*runs.values(), other):
            run.train(steps - done)
        done = steps
        moved = np.linalg.norm(runs[1].parameters() - runs[1].start)
        apart[str(steps)] = {
            **{
                f"{layout} devices": float(
                    np.linalg.norm(runs[layout].parameters() - runs[1].parameters()) / moved
                )
                for layout in LAYOUTS[1:]
            },
            "another order of examples": float(
                np.linalg.norm(other.parameters() - runs[1].parameters()) / moved
            ),
        }
    errors: dict[str, list[float]] = {str(layout): [] for layout in LAYOUTS}
    for seed in range(options.seeds):
        for layout in LAYOUTS:
            run = _Training(layout, seed=seed)
            run.train(options.epochs * run.run.steps_per_epoch)
            errors[str(layout)].append(run.robust_error())
            print(f"seed {seed}, {layout} devices: RErr {errors[str(layout)][-1]:.1%}", flush=True)
    return {
        "apart": apart,
        "robust_error": errors,
        "epochs": options.epochs,
        "environment": report.describe_environment(),
    }


class _Training:
    """Adversarial training of the digits' network over so many devices."""

    def __init__(self, layout: int, *, seed: int, order: int = 0) -> None:
        import dataclasses

        import jax
        from rfm.configs import digits

        from rfm.devices import make_mesh, replicate
        from rfm.training import build, feed

        config = digits.get_config()
        config.seed = seed
        run = build.build(config)
        mesh = make_mesh(layout)
        self.run = dataclasses.replace(run, mesh=mesh)
        self.feed = feed.Resident(self.run, None)
        self.key = replicate(jax.random.fold_in(run.key("train"), order), mesh)
        self.state = self.run.initial_state()
        self.start = self.parameters()

    def train(self, steps: int) -> None:
        import jax.numpy as jnp

        longest = self.run.config.train.steps_per_dispatch
        while steps > 0:
            at = int(self.state.step) % self.run.steps_per_epoch
            count = min(steps, longest, self.run.steps_per_epoch - at)
            data = self.feed.take(count)
            self.state, _ = self.feed.dispatch(self.state, data, self.key, jnp.int32(count))
            steps -= count

    def parameters(self) -> Any:
        import jax
        import numpy as np

        leaves = jax.tree.leaves(jax.device_get(self.state.params))
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])

    def robust_error(self) -> float:
        import jax

        from rfm.evaluation.robustness import attacked
        from rfm.training.axes import attack
        from rfm.types import bind

        params, stats = self.run.evaluated(self.state)
        data = self.run.dataset
        found = attacked(
            bind(self.run.apply_fn(stats), params),
            data.test_images,
            data.test_labels,
            jax.random.key(0),
            attack=attack(self.run.config.evaluation, "config.evaluation"),
            batch_size=128,
            mesh=self.run.mesh,
        )
        return float(1 - found.robust.mean())


def markdown(found: dict[str, Any]) -> str:
    """The tables of one machine."""
    environment, errors = found["environment"], found["robust_error"]
    ways = list(next(iter(found["apart"].values())))
    lines = [
        "Distance of the parameters from those on one device, over the way that these have gone,"
        f" after so many steps of `digits:at`. {environment['cpu']}, simulated devices; revision"
        f" {environment['git']}.",
        "",
        "| steps | " + " | ".join(ways) + " |",
        "|--:|" + "--:|" * len(ways),
    ]
    for steps, row in found["apart"].items():
        lines.append(f"| {steps} | " + " | ".join(f"{row[way]:.1e}" for way in ways) + " |")
    lines += [
        "",
        f"RErr (%) on the 500 test digits after {found['epochs']} epochs, by seed:",
        "",
        "| devices | " + " | ".join(map(str, range(len(errors["1"])))) + " | mean |",
        "|--:|" + "--:|" * (len(errors["1"]) + 1),
    ]
    for layout, values in errors.items():
        cells = [f"{100 * v:.1f}" for v in (*values, statistics.mean(values))]
        lines.append(f"| {layout} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
