"""What flatness costs: ``python -m benchmarks.flatness``.

Every measure at the paper's settings beside plain PyTorch, in seconds per 1000 examples, and
how time and memory grow with the number of weight samples and restarts. The examples are a
batch of 128: batches have nothing to do with each other.
"""

import argparse
import dataclasses
import sys

from rich.console import Console
from rich.status import Status

from benchmarks import report
from benchmarks.foundation import FULL, case
from benchmarks.harness import measure
from benchmarks.workload import Workload

FOLDER = report.RESULTS / "flatness"
BEGIN, END = "<!-- flatness: written by benchmarks.flatness -->", "<!-- end of flatness -->"
GROWTH = (2, 4, FULL)


def workloads(options: argparse.Namespace) -> list[Workload]:
    """The rows."""
    basis = Workload("", options.width, FULL, device=options.device, per_thousand=True)
    rows = [
        *((kind, times, True) for kind in ("average_case", "worst_case") for times in GROWTH),
        *((kind, FULL, False) for kind in ("average_case", "worst_case")),
        ("landscape", FULL, True),
        ("hessian", FULL, False),
    ]
    return [
        dataclasses.replace(basis, kind=kind, times=times, robust=robust)
        for kind, times, robust in rows
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flatness", description=__doc__)
    parser.add_argument("--width", type=int, default=16, help="of ResNet-18 (16)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(cpu)")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each side (3)")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with torch")
    parser.add_argument("--render", action="store_true", help="only rewrite the README's table")
    options = parser.parse_args()
    if not options.render:
        console, rows = Console(width=160), []
        with Status("", console=console) as status:
            for workload in workloads(options):
                pythons = sys.executable, options.peer_python
                made = case(workload, pythons, "1000 examples")
                rows.append(measure(made, repeats=options.repeats, say=status.update))
                report.save(rows[-1:], FOLDER)
        console.print(report.table(rows))
    report.render(folder=FOLDER, region=(BEGIN, END))
    return 0


if __name__ == "__main__":
    sys.exit(main())
