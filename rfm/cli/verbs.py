"""What each verb does; the flags are in `rfm.cli.parser`."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from rfm import data, reporting
from rfm import workdir as workdirs
from rfm.cli.bars import Bars
from rfm.cli.config import resolve
from rfm.cli.signals import Stop
from rfm.errors import UserError
from rfm.evaluation.evaluate import evaluation_tasks
from rfm.evaluation.measure_flatness import flatness_tasks
from rfm.evaluation.tasks import Subject, carry_out
from rfm.training import loop
from rfm.training.build import Run, build
from rfm.training.checkpoint import Checkpoints
from rfm.training.metrics import best_snapshot, read_lines


class _Command:
    """One call: its config, its workdir, and how it talks."""

    def __init__(self, arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
        self.arguments = arguments
        self.config: ConfigDict
        self.config, self.workdir = resolve(arguments.config, arguments.workdir, overrides)
        self.console = Console()
        self.stop = Stop()
        self.stop.install()

    def warn(self, line: str) -> None:
        self.console.print(f"rfm: {line}", style="yellow", highlight=False)

    def train(self, run: Run) -> int:
        self.stop.defer(True)
        try:
            with Bars(self.console) as bars:
                loop.train(
                    run,
                    self.workdir,
                    progress=bars,
                    warn=self.warn,
                    should_stop=self.stop.requested,
                )
        except loop.Interrupted as reason:
            self.warn(f"{reason}; the same command goes on")
            return self.stop.status
        except loop.NotFinite as reason:
            self.warn(str(reason))
            return 1
        finally:
            self.stop.defer(False)
        return 0

    def subjects(self, run: Run) -> list[Subject]:
        """The checkpoint asked for, and all snapshots unless they are not wanted."""
        workdirs.claim(self.workdir, self.config.to_dict())
        every = self.config.train.snapshot_every * run.steps_per_epoch
        like = run.initial_state()
        with Checkpoints(self.workdir / "checkpoints", snapshot_steps=every) as checkpoints:
            steps = checkpoints.steps()
            step = _which(self.arguments.checkpoint, run, self.workdir, steps)
            state = checkpoints.restore(step, like)
            found = [Subject(run, state, self.arguments.checkpoint)]
            if not getattr(self.arguments, "no_snapshots", True):
                snapshots = [s for s in steps if s and (s % every == 0 or s == run.total_steps)]
                found += [
                    Subject(run, checkpoints.restore(s, like), str(s), snapshot=True)
                    for s in snapshots
                ]
        return found

    def measure(self, run: Run, *, with_flatness: bool) -> None:
        for subject in self.subjects(run):
            with Bars(self.console) as bars:
                again = self.arguments.again
                tasks = evaluation_tasks(subject)
                records = carry_out(tasks, self.workdir, again=again, progress=bars)
                if with_flatness:
                    evaluated = {record["split"]: record for record in records}
                    tasks = flatness_tasks(subject, evaluated)
                    carry_out(tasks, self.workdir, again=again, progress=bars)

    def report(self) -> None:
        path = reporting.write_report(self.workdir)
        self.show_table()
        self.console.print(f"report: {path.resolve()}", highlight=False, soft_wrap=True)

    def show_table(self) -> None:
        table = reporting.table(reporting.read_run(self.workdir).records)
        if table is not None:
            self.console.print(table.to_rich())


def _run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    command = _Command(arguments, overrides)
    run = build(command.config)
    command.console.print(
        f"{command.config.name} on {run.dataset.name}, {run.mesh.size} x"
        f" {run.mesh.devices.flat[0].device_kind}, workdir {command.workdir}",
        highlight=False,
    )
    if status := command.train(run):
        return status
    command.measure(run, with_flatness=True)
    command.report()
    return 0


def _train(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    command = _Command(arguments, overrides)
    return command.train(build(command.config))


def _evaluate(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    command = _Command(arguments, overrides)
    _must_exist(command.workdir)
    command.measure(build(command.config), with_flatness=False)
    command.show_table()
    return 0


def _flatness(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    command = _Command(arguments, overrides)
    _must_exist(command.workdir)
    command.measure(build(command.config), with_flatness=True)
    command.show_table()
    return 0


def _report(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    command = _Command(arguments, overrides)
    _must_exist(command.workdir)
    command.report()
    return 0


def _data(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    if overrides:
        raise UserError(f"unknown flag {overrides[0]!r}; rfm data takes no config")
    console = Console()
    if arguments.action == "prepare":
        name = arguments.name.removeprefix("tfds:")
        where = data.prepare(name, arguments.data_dir)
        console.print(f"{name} is ready in {where}", highlight=False, soft_wrap=True)
        return 0
    found = data.load(arguments.name, data_dir=arguments.data_dir)
    height, width, channels = found.image_shape
    console.print(
        f"{found.name}: {len(found.train_labels)} training and {len(found.test_labels)} test"
        f" images of {height}x{width}x{channels}, {found.classes} classes"
        f" ({', '.join(found.class_names)})",
        highlight=False,
    )
    return 0


VERBS: dict[str, Callable[[argparse.Namespace, Sequence[str]], int]] = {
    "run": _run,
    "train": _train,
    "evaluate": _evaluate,
    "flatness": _flatness,
    "report": _report,
    "data": _data,
}


def _must_exist(workdir: Path) -> None:
    if not os.path.isdir(workdir):
        raise UserError(f"no workdir {workdir}; make one with rfm train or rfm run")


def _which(name: str, run: Run, workdir: Path, steps: Sequence[int]) -> int:
    """The step of the checkpoint that the user calls `name`."""
    if not steps:
        raise UserError(f"no checkpoint in {workdir}; run rfm train first")
    if name == "final":
        if steps[-1] < run.total_steps:
            raise UserError(
                f"training in {workdir} is at step {steps[-1]} of {run.total_steps}; finish it"
                f" with rfm train, or measure it as it is with --checkpoint {steps[-1]}"
            )
        return steps[-1]
    if name == "best":
        best = best_snapshot(read_lines(workdir / "metrics.jsonl"))
        if best is None:
            raise UserError(f"no snapshot in {workdir} has been validated yet; train on")
        return int(best["step"])
    if not name.isdecimal() or int(name) not in steps:
        known = ", ".join(map(str, steps))
        raise UserError(f"no checkpoint {name!r} in {workdir}; there are final, best, {known}")
    return int(name)
