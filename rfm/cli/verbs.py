"""What each verb does; the flags are in `rfm.cli.parser`."""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from rfm import data, reporting
from rfm import workdir as workdirs
from rfm.cli.bars import Bars
from rfm.cli.environment import check_devices
from rfm.cli.signals import Stop
from rfm.errors import UserError, did_you_mean
from rfm.evaluation.attack import ATTACKS, AUTOATTACKS, attack_line, attack_tasks, saved_task
from rfm.evaluation.check import check_measures
from rfm.evaluation.evaluate import evaluation_tasks
from rfm.evaluation.measure_flatness import flatness_tasks
from rfm.evaluation.tasks import Subject, carry_out
from rfm.models import exported
from rfm.reporting.metrics import read_metrics
from rfm.training import loop
from rfm.training.build import Run, build
from rfm.training.checkpoint import Checkpoints


class _Command:
    """One call: its config, its workdir, and how it talks."""

    def __init__(self, arguments: argparse.Namespace, stop: Stop) -> None:
        self.arguments = arguments
        self.config: ConfigDict = arguments.config
        self.workdir: Path = arguments.workdir
        self.console = Console()
        self.errors = Console(stderr=True)
        self.stop = stop

    def build(self) -> Run:
        workdirs.check(self.workdir, self.config.to_dict())  # before data are loaded
        check_devices()
        return build(self.config)

    def must_exist(self) -> None:
        """Is there anything to measure?"""
        workdir = self.workdir
        if self.config.model.exported:
            if self.arguments.checkpoint != "final":
                raise UserError("--checkpoint: an exported model is one checkpoint; leave it out")
            return
        if not os.path.isdir(workdir):
            raise UserError(f"no workdir {workdir}; make one with rfm train or rfm run")
        if workdirs.read_config(workdir) is None:
            raise UserError(f"{workdir} is no workdir: it has no config.json; rfm train makes one")

    def must_train(self) -> None:
        """Can the model be trained?"""
        if self.config.model.exported:
            raise UserError(
                "config.model.exported: an exported model cannot be trained; rfm evaluate,"
                " attack or flatness measure it"
            )

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        self.errors.print(
            f"rfm: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )

    def train(self, run: Run) -> int:
        def tell(task: str, done: int, total: int, fields: Mapping[str, float]) -> None:
            # From here on there is something to save.
            self.stop.defer(True)
            bars(task, done, total, fields)

        try:
            with Bars(self.console) as bars:
                loop.train(
                    run,
                    self.workdir,
                    progress=tell,
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
        return self.stop.status if self.stop.requested() else 0

    def subjects(self, run: Run) -> Iterator[Subject]:
        """The checkpoint asked for, then all snapshots unless they are not wanted."""
        if self.config.model.exported:
            subject = Subject.of_file(run, self.config.model.exported)
            workdirs.claim(self.workdir, self.config.to_dict())
            yield subject
            return
        directory = self.workdir / "checkpoints"
        if not directory.is_dir():
            raise UserError(f"no checkpoint in {self.workdir}; run rfm train first")
        every = self.config.train.snapshot_every * run.steps_per_epoch
        like = run.initial_state()
        with Checkpoints(directory, snapshot_steps=every, read_only=True) as checkpoints:
            steps = checkpoints.steps()
            step = _which(self.arguments.checkpoint, run, self.workdir, steps)
            state = checkpoints.restore(step, like)
            workdirs.claim(self.workdir, self.config.to_dict())
            yield Subject.of_state(run, state, self.arguments.checkpoint)
            if getattr(self.arguments, "no_snapshots", True):
                return
            for step in steps:
                if step and (step % every == 0 or step == run.total_steps):
                    try:
                        state = checkpoints.restore(step, like)
                    except UserError as error:
                        self.warn(f"{error}; this snapshot is left out")
                        continue
                    yield Subject.of_state(run, state, str(step), snapshot=True)

    def measure(self, run: Run, *, with_autoattack: bool, with_flatness: bool) -> None:
        check_measures(run)
        for subject in self.subjects(run):
            with Bars(self.console) as bars:
                again = self.arguments.again
                tasks = evaluation_tasks(subject)
                records = carry_out(tasks, self.workdir, again=again, progress=bars)
                if with_autoattack and not subject.snapshot:
                    self._autoattack(subject, bars)
                if with_flatness:
                    evaluated = {record["split"]: record for record in records}
                    tasks = flatness_tasks(subject, evaluated)
                    carry_out(tasks, self.workdir, again=again, progress=bars)

    def attack(self, run: Run) -> None:
        check_measures(run)
        name, split, again = self.arguments.attack, self.arguments.split, self.arguments.again
        for subject in self.subjects(run):
            if self.arguments.saved:
                tasks = [saved_task(subject, Path(self.arguments.saved).expanduser(), split)]
            else:
                tasks = attack_tasks(subject, name, self.workdir, splits=(split,))
            with Bars(self.console) as bars:
                found = carry_out(tasks, self.workdir, again=again, progress=bars)
            for record in found:
                self._warn_of(record)
                self.say(attack_line(record))

    def _autoattack(self, subject: Subject, bars: Bars) -> None:
        """Beside PGD, if the config asks for it."""
        version = self.config.evaluation.autoattack
        if version == "none":
            return
        name, again = AUTOATTACKS[version], self.arguments.again
        tasks = attack_tasks(subject, name, self.workdir, splits=("test",))
        for record in carry_out(tasks, self.workdir, again=again, progress=bars):
            self._warn_of(record)

    def _warn_of(self, record: Mapping[str, Any]) -> None:
        for line in record.get("warnings", ()):
            self.warn(f"{record['name']}: {line}")

    def export(self, run: Run) -> None:
        (subject,) = self.subjects(run)
        given, name = self.arguments.out, f"exported/{self.config.name}-{subject.step}.npz"
        out = Path(given).expanduser() if given else self.workdir / name
        content = exported.dumps(
            subject.apply_fn,
            subject.params,
            image_shape=run.dataset.image_shape,
            precision=self.config.evaluation.matmul_precision,
        )
        workdirs.write_atomically(out, content)
        self.say(f"exported: {out.resolve()}")

    def report(self) -> None:
        path = reporting.write_report(self.workdir)
        self.show_table()
        self.say(f"report: {path.resolve()}")

    def show_table(self) -> None:
        table = reporting.table(reporting.read_run(self.workdir).records)
        if table is not None:
            self.console.print(table.to_rich())


def _run(arguments: argparse.Namespace, stop: Stop) -> int:
    command = _Command(arguments, stop)
    command.must_train()
    run = command.build()
    command.say(
        f"{command.config.name} on {run.dataset.name}, {run.mesh.size} x"
        f" {run.mesh.devices.flat[0].device_kind}, workdir {command.workdir}"
    )
    check_measures(run)
    if status := command.train(run):
        return status
    command.measure(run, with_autoattack=True, with_flatness=True)
    command.report()
    return 0


def _train(arguments: argparse.Namespace, stop: Stop) -> int:
    command = _Command(arguments, stop)
    command.must_train()
    return command.train(command.build())


def _evaluate(arguments: argparse.Namespace, stop: Stop) -> int:
    command = _Command(arguments, stop)
    command.must_exist()
    command.measure(command.build(), with_autoattack=True, with_flatness=False)
    command.show_table()
    return 0


def _flatness(arguments: argparse.Namespace, stop: Stop) -> int:
    command = _Command(arguments, stop)
    command.must_exist()
    command.measure(command.build(), with_autoattack=False, with_flatness=True)
    command.show_table()
    return 0


def _attack(arguments: argparse.Namespace, stop: Stop) -> int:
    command = _Command(arguments, stop)
    command.must_exist()
    if arguments.saved and arguments.attack is not None:
        raise UserError("--saved replaces --attack: give one of them")
    arguments.attack = arguments.attack or "autoattack"
    if arguments.attack not in ATTACKS:  # before anything is loaded
        hint = did_you_mean(arguments.attack, ATTACKS)
        raise UserError(f"no attack {arguments.attack!r} among {', '.join(ATTACKS)}{hint}")
    command.attack(command.build())
    if arguments.attack in AUTOATTACKS.values() and not arguments.saved:
        command.show_table()
    return 0


def _export(arguments: argparse.Namespace, stop: Stop) -> int:
    command = _Command(arguments, stop)
    command.must_exist()
    command.export(command.build())
    return 0


def _report(arguments: argparse.Namespace, stop: Stop) -> int:
    _Command(arguments, stop).report()
    return 0


def _data(arguments: argparse.Namespace, stop: Stop) -> int:
    console = Console()
    if arguments.action == "prepare":
        name = arguments.name.removeprefix("tfds:")
        where = data.prepare(name, arguments.data_dir)
        console.print(f"{name} is ready in {where}", markup=False, highlight=False, soft_wrap=True)
        return 0
    found = data.load(arguments.name, data_dir=arguments.data_dir)
    height, width, channels = found.image_shape
    console.print(
        f"{found.name}: {len(found.train_labels)} training and {len(found.test_labels)} test"
        f" images of {height}x{width}x{channels}, {found.classes} classes"
        f" ({', '.join(found.class_names)})",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


VERBS: dict[str, Callable[[argparse.Namespace, Stop], int]] = {
    "run": _run,
    "train": _train,
    "evaluate": _evaluate,
    "flatness": _flatness,
    "attack": _attack,
    "export": _export,
    "report": _report,
    "data": _data,
}


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
        metrics, problems = read_metrics(workdir / "metrics.jsonl")
        if problems:
            raise UserError(f"{problems[0]}; restore or delete it")
        best = metrics.early_stopping(steps)
        if best is None:
            raise UserError(f"no snapshot in {workdir} has been validated yet; train on")
        return best.step
    if not name.isdecimal() or int(name) not in steps:
        known = ", ".join(map(str, steps))
        raise UserError(f"no checkpoint {name!r} in {workdir}; there are final, best, {known}")
    return int(name)
