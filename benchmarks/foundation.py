"""The foundation against plain PyTorch: ``python -m benchmarks.foundation``.

Five computations at two widths of ResNet-18, batch 128: a step of adversarial training,
robust evaluation, average- and worst-case flatness, Hessian-vector products. README.md says
what each answers.
"""

import argparse
import os
import sys

from rich.console import Console
from rich.status import Status

from benchmarks import report
from benchmarks.harness import Case, Side, cores, measure
from benchmarks.workload import Workload

KINDS = ("at_step", "pgd", "average_case", "worst_case", "hessian")
FULL = 10  # restarts, weight samples: the paper's protocol


def case(workload: Workload, pythons: tuple[str, str], unit: str = "") -> Case:
    """The row of a workload: rfm beside PyTorch; `unit` if it is not the usual one."""
    ours = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    theirs = {"OMP_NUM_THREADS": str(cores())}
    if workload.device == "cpu":
        # As rfm's command line arranges it: one device per core, the batch spread over them.
        flags = f"--xla_force_host_platform_device_count={cores()}"
        flags += " --xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
        ours = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}
    settings = workload.settings()
    return Case(
        title(workload),
        unit
        or {"at_step": "step", "hessian": "product"}.get(
            workload.kind, f"{workload.batch} examples"
        ),
        {
            "rfm": Side("benchmarks.rfm_side:run", settings, ours, pythons[0]),
            "PyTorch": Side("benchmarks.torch_side:run", settings, theirs, pythons[1]),
        },
    )


def title(workload: Workload) -> str:
    """What is computed, the part of the full protocol that it is included."""
    steps, times = workload.steps, workload.times
    part = "" if times == FULL else f" (of {FULL})"
    of_loss = "" if workload.robust else " of Loss"
    attack = f", PGD-{steps}" if workload.robust else " of Loss"
    what = {
        "at_step": "AT step: PGD-7 and the update",
        "pgd": f"PGD-{steps}, {times} restart(s){part}",
        "average_case": f"average-case flatness, {times} weight sample(s){part}{attack}",
        "worst_case": f"worst-case flatness{of_loss}, {times} restart(s){part} of {steps} steps",
        "landscape": f"landscape, {times} points{attack}",
        "hessian": f"Hessian-vector product, {times} in Lanczos' method",
    }[workload.kind]
    plain = workload.dtype == "float32"
    return f"{what}; width {workload.width}" + ("" if plain else f", {workload.dtype}")


def times(kind: str, options: argparse.Namespace) -> int:
    """How often the inner part is repeated: by default what the device can bear."""
    on_cpu = options.device == "cpu"
    if kind == "at_step":
        return options.steps_per_dispatch or (2 if on_cpu else 65)
    if kind == "hessian":
        return options.times or (5 if on_cpu else 50)
    if kind == "pgd":
        return options.times or (1 if on_cpu else FULL)
    return options.times or (2 if on_cpu else FULL)  # a sample or restart for each device


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if options.render:
        report.render()
        return 0
    if options.check:
        return _check(options, console)
    rows = []

    def say(line: str) -> None:
        if line.startswith("warning"):
            console.print(line)
        status.update(line)

    with Status("", console=console) as status:
        for width in options.width:
            for kind in options.only:
                workload = Workload(
                    kind,
                    width,
                    times(kind, options),
                    dtype=options.dtype,
                    device=options.device,
                    data=options.data,
                    chunk=options.chunk,
                )
                made = case(workload, (sys.executable, options.peer_python))
                row = measure(made, repeats=options.repeats, say=say)
                rows.append(row)
                path = report.save([row])
    console.print(report.table(rows))
    console.print(f"written to {path}")
    return 0


def _check(options: argparse.Namespace, console: Console) -> int:
    from benchmarks import check  # imports JAX and PyTorch

    worst = 0.0
    for name, difference in check.differences(min(options.width), batch=16):
        console.print(f"{name}: relative difference {difference:.1e}")
        worst = max(worst, difference)
    fine = worst < check.LIMIT
    console.print("the two sides agree" if fine else f"they differ by more than {check.LIMIT}")
    return 0 if fine else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.foundation", description=__doc__)
    add = parser.add_argument
    add("--check", action="store_true", help="compare the numbers of both sides, time nothing")
    add("--render", action="store_true", help="only rewrite the README's tables from results/")
    add("--only", nargs="+", choices=KINDS, default=KINDS, help="rows (all)")
    add("--width", nargs="+", type=int, default=[16, 64], help="of ResNet-18 (16 64)")
    add("--repeats", type=int, default=5, help="timed calls of each side (5)")
    add(
        "--times",
        type=int,
        default=0,
        help="restarts or samples (1 or 2 on CPU, else 10)",
    )
    add("--steps-per-dispatch", type=int, default=0, help="AT steps per call (2 on CPU, else 65)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="for both sides (cpu)")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the computation")
    add("--data", default="", help=".npz with x_train (uint8) and y_train; default: noise")
    add("--chunk", type=int, default=0, help="rows of rfm's PGD at once (0: all)")
    add("--peer-python", default=sys.executable, help="interpreter that has torch (this one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
