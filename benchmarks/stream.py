"""Does training wait for a stream? A slow source, simulated, against the data on the device.

    python -m benchmarks.stream [--milliseconds 1 5 20] [--threads 16]

Every image takes some milliseconds to read, as from a network disk. As long as the threads
together read faster than the devices compute, a step must take as long as with the data on the
device. Both sides are timed turn by turn in one process; the source's own speed is known
(threads / milliseconds), so the table says where training must begin to wait.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, report
from rfm.cli.environment import arrange

RESULTS = Path(__file__).parent / "results" / "stream"
BEGIN, END = "<!-- stream: written by benchmarks.stream -->", "<!-- end of stream -->"
ON_DEVICE = "all on the device"


class Slow:
    """A source whose images take a while; reading does not use the processor."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, seconds: float) -> None:
        self._images, self._labels, self._seconds = images, labels, seconds

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        time.sleep(self._seconds)
        return {"images": self._images[row], "labels": self._labels[row]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[1.0, 20.0, 100.0])
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--width", type=int, default=16, help="of ResNet-18 (16)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--attack-steps", type=int, default=7, help="of PGD (7)")
    parser.add_argument("--steps", type=int, default=4, help="of training, in a dispatch (4)")
    parser.add_argument("--repeats", type=int, default=3, help="timed dispatches of each way (3)")
    parser.add_argument("--render", action="store_true", help="only rewrite the README's table")
    options = parser.parse_args()
    if options.render:
        report.render_records(RESULTS, (BEGIN, END), markdown)
        return 0
    arrange()
    calls = {ON_DEVICE: _side(options, None)}
    for each in options.milliseconds:
        calls[f"{each:g} ms an image"] = _side(options, each)
    seconds = harness.in_turns(calls, options.repeats)
    environment = report.describe_environment()
    found = {"settings": vars(options), "seconds": seconds, "environment": environment}
    RESULTS.mkdir(parents=True, exist_ok=True)
    name = report.slug(environment["cpu"], environment["cores"])
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    report.render_records(RESULTS, (BEGIN, END), markdown)
    print(markdown(found))
    return 0


def _side(asked: argparse.Namespace, milliseconds: float | None) -> Callable[[], None]:
    """A function that does one dispatch and prepares the next, as the loop does."""
    import jax
    import jax.numpy as jnp
    from rfm.configs import cifar10

    from rfm import data
    from rfm.devices import fetch, replicate
    from rfm.training import build, feed

    config = cifar10.get_config()
    rng = np.random.default_rng(0)
    count = 50 * asked.batch_size
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, count).astype(np.int32)
    config.model.width, config.adversary.steps = asked.width, asked.attack_steps
    config.train.update(batch_size=asked.batch_size, steps_per_dispatch=asked.steps)
    config.data.stream = 0 if milliseconds is None else asked.threads
    dataset = data.from_arrays("noise", images, labels, images[:1000], labels[:1000])
    run = build.build(config, dataset=dataset)
    if milliseconds is None:
        fed: feed.Feed = feed.Resident(run, None)
    else:
        fed = feed.Streamed(run, 0, source=Slow(images, labels, milliseconds / 1000))
    key = replicate(run.key("train"), run.mesh)
    held = [run.initial_state(), fed.take(asked.steps)]

    def step() -> None:
        state, metrics = fed.dispatch(held[0], held[1], key, jnp.int32(asked.steps))
        held[:] = [state, fed.take(asked.steps)]
        jax.block_until_ready(fetch(metrics))

    return step


def markdown(found: dict[str, Any]) -> str:
    """The table of one machine."""
    asked, seconds, environment = found["settings"], found["seconds"], found["environment"]
    on_device = statistics.median(seconds[ON_DEVICE])
    images = asked["batch_size"] * asked["steps"]
    lines = [
        f"Adversarial training of ResNet-18, width {asked['width']}, PGD-{asked['attack_steps']},"
        f" batches of {asked['batch_size']}; images read by {asked['threads']} threads; medians of"
        f" {len(seconds[ON_DEVICE])} dispatches of {asked['steps']} steps (minimum to maximum)."
        f" {environment['cpu']}, {environment['cores']} cores; revision {environment['git']}.",
        "",
        "| training images | threads read, images/s | trained, images/s | of all on the device |",
        "|---|---:|---:|---:|",
    ]
    for name, times in seconds.items():
        middle, ends = statistics.median(times), (images / max(times), images / min(times))
        slow = float(name.partition(" ")[0]) if name != ON_DEVICE else None
        reads = "–" if slow is None else f"{1000 * asked['threads'] / slow:.0f}"
        rate = f"{images / middle:.0f} ({ends[0]:.0f} to {ends[1]:.0f})"
        lines.append(f"| {name} | {reads} | {rate} | {on_device / middle:.2f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
