"""``rfm sweep``: plans runs, and sees to it that they are done."""

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from rfm import workdir as workdirs
from rfm.cli.signals import Stop
from rfm.cli.sweep.conductor import Conductor
from rfm.cli.sweep.executors import Executor, Local, Slurm
from rfm.cli.sweep.plan import plan
from rfm.cli.sweep.slots import Slot, slots
from rfm.cli.sweep.table import SweepTable, summary
from rfm.errors import UserError

_STOP_SECONDS = 120  # for runs on this machine to save
_SLURM_FLAGS = ("slurm_partition", "slurm_account", "slurm")


def run(arguments: argparse.Namespace, stop: Stop) -> int:
    """Does what is not done yet; 0 if all is done then, 1 if something failed."""
    _check(arguments)
    workdir = Path(arguments.workdir).expanduser().absolute()
    if workdirs.read_config(workdir) is not None:
        raise UserError(f"{workdir} is the workdir of one run; give the folder of a sweep")
    seeds = range(arguments.seeds)
    flags = ["--no-snapshots"] if arguments.no_snapshots else []
    runs = plan(
        *(arguments.config, arguments.methods, seeds, arguments.overrides, workdir), flags=flags
    )
    folder = workdir / ".sweep"
    if arguments.dry_run:
        for planned in runs:
            print(shlex.join(planned.shown))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    with workdirs.locked(folder, doing="sweeping"):
        executor = _executor(arguments, folder / "logs")
        shares = _slots(arguments, len(runs))
        conductor = Conductor(runs, folder, executor, slots=shares, retries=arguments.retries)
        _say(console, f"{len(runs)} runs in {workdir}: {summary(conductor.entries)}")
        return _follow(conductor, executor, console, stop, workdir)


def _follow(
    conductor: Conductor, executor: Executor, console: Console, stop: Stop, workdir: Path
) -> int:
    stop.defer(True, "stopping...")
    with SweepTable(console, conductor.entries) as table:
        while not conductor.has_ended and not stop.requested():
            table.show(conductor.step())
            time.sleep(0 if conductor.has_ended else executor.seconds)
    if stop.requested():
        return _leave(conductor, executor, console, stop)
    for entry in conductor.entries:
        if entry.phase == "failed":
            _say(console, f"{entry.run.name} failed: {entry.note}")
            _say(console, f"  what it said: {entry.base}.err")
    _say(console, summary(conductor.entries))
    _say(console, f"rfm report {shlex.quote(str(workdir))} draws them all")
    return 1 if any(entry.phase == "failed" for entry in conductor.entries) else 0


def _leave(conductor: Conductor, executor: Executor, console: Console, stop: Stop) -> int:
    if executor.name == "slurm":
        _say(console, "stopped; the jobs stay on Slurm, and the same command finds them again")
        return stop.status
    _say(console, "the runs save their state")
    end = time.monotonic() + _STOP_SECONDS
    while (left := conductor.stop()) and time.monotonic() < end:
        time.sleep(executor.seconds)
    if left:
        names = ", ".join(entry.run.name for entry in left)
        _say(console, f"still running: {names}; the same command finds them again")
    else:
        _say(console, "stopped; the same command goes on")
    return stop.status


def _executor(arguments: argparse.Namespace, logs: Path) -> Executor:
    if arguments.executor == "local":
        return Local(logs)
    options: dict[str, Any] = {
        "partition": arguments.slurm_partition,
        "account": arguments.slurm_account,
        "gpus_per_node": arguments.gpus_per_run,
    }
    return Slurm(
        logs,
        hours=arguments.hours,
        cpus=arguments.cpus_per_run,
        options={name: value for name, value in options.items() if value},
        more=dict(arguments.slurm),
    )


def _slots(arguments: argparse.Namespace, count: int) -> list[Slot]:
    if arguments.executor == "slurm":
        return [({}, None)] * (arguments.parallel or count)
    gpus, cpus = arguments.gpus_per_run, arguments.cpus_per_run
    return slots(arguments.parallel or 1, gpus=gpus, cpus=cpus)


def _check(arguments: argparse.Namespace) -> None:
    at_least = {"seeds": 1, "parallel": 0, "retries": 0, "gpus_per_run": 0, "cpus_per_run": 0}
    for name, least in at_least.items():
        if getattr(arguments, name) < least:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} must be at least {least}, got {getattr(arguments, name)}")
    if not 0.1 <= arguments.hours <= 24 * 365:
        raise UserError(f"--hours must be from 0.1 to a year, got {arguments.hours:g}")
    given = [name for name in _SLURM_FLAGS if getattr(arguments, name)]
    if arguments.executor == "local" and given:
        flag = given[0].replace("_", "-")
        raise UserError(f"--{flag} is for --executor slurm")


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
