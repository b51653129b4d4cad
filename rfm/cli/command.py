"""One call of the command line: its config, its workdir, and how it talks."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from rfm import processes, reporting
from rfm import workdir as workdirs
from rfm.cli.bars import Bars
from rfm.cli.environment import check_devices
from rfm.cli.job import same
from rfm.cli.signals import Stop
from rfm.configs import methods
from rfm.errors import UserError
from rfm.evaluation.attack import AUTOATTACKS, attack_tasks
from rfm.evaluation.check import check_measures
from rfm.evaluation.evaluate import evaluation_tasks
from rfm.evaluation.measure_curvature import curvature_task
from rfm.evaluation.measure_flatness import flatness_task, flatness_tasks
from rfm.evaluation.tasks import Subject, Task, carry_out
from rfm.models import imported
from rfm.reporting import variants
from rfm.reporting.metrics import read_metrics
from rfm.training import loop
from rfm.training.build import Run, build
from rfm.training.checkpoint import Checkpoints
from rfm.training.memory import Memory

Record = dict[str, Any]


class Command:
    """What the verbs have in common."""

    def __init__(self, arguments: argparse.Namespace, stop: Stop) -> None:
        self.arguments = arguments
        self.config: ConfigDict = arguments.config
        self.workdir: Path = arguments.workdir
        others = not processes.is_first()  # the first process talks
        self.console = Console(quiet=others)
        self.errors = Console(stderr=True, quiet=others)
        self.stop = stop

    @property
    def is_from_elsewhere(self) -> bool:
        """Is the model one that was not trained in the workdir, and is only measured?"""
        return bool(self.config.model.exported or self.config.model.weights)

    def build(self) -> Run:
        self._identify_weights()
        workdirs.check(self.workdir, self.config.to_dict())  # before data are loaded
        check_devices()
        run = build(self.config)
        same("data set", run.dataset.digest)
        if path := self.config.model.weights:
            self.say(f"{path}: {_in_words(self.config.model, run)}")
        return run

    def _identify_weights(self) -> None:
        """Says in the config what the file of weights holds: it may be exchanged under its name."""
        section = self.config.model
        if not section.weights:
            return
        found = imported.sha256(section.weights)
        same("file of weights", lambda: found)
        if section.weights_sha256 not in ("", found):
            raise UserError(
                f"{section.weights} is not the file that {self.workdir} is about: its sha256 is"
                f" {found[:12]}... instead of {section.weights_sha256[:12]}...; give another"
                " --workdir"
            )
        section.weights_sha256 = found

    def must_exist(self) -> None:
        """Is there anything to measure?"""
        if self.is_from_elsewhere:
            if self.arguments.checkpoint != "final":
                what = "an exported model" if self.config.model.exported else "a file of weights"
                raise UserError(f"--checkpoint: {what} is one checkpoint; leave it out")
            return
        if not processes.by_first(self.workdir.is_dir):
            raise UserError(f"no workdir {self.workdir}; make one with rfm train or rfm run")
        if workdirs.read_config(self.workdir) is None:
            raise UserError(
                f"{self.workdir} is no workdir: it has no config.json; rfm train makes one"
            )

    def must_train(self) -> None:
        """Can the model be trained?"""
        if self.config.model.exported:
            raise UserError(
                "config.model.exported: an exported model cannot be trained; rfm run, evaluate,"
                " attack or flatness measure it"
            )
        if self.config.model.weights:
            raise UserError(
                "config.model.weights: imported weights cannot be trained further; rfm run,"
                " evaluate, attack or flatness measure them"
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
                    on_memory=self._show_memory if self.arguments.memory else None,
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

    def _show_memory(self, memory: Memory | None) -> None:
        self.say("memory of the compiled step: unknown here" if memory is None else str(memory))

    def checkpoints(self, run: Run) -> Checkpoints:
        """Those of the workdir, to read."""
        directory = self.workdir / "checkpoints"
        if not processes.by_first(directory.is_dir):
            raise UserError(f"no checkpoint in {self.workdir}; run rfm train first")
        every = self.config.train.snapshot_every * run.steps_per_epoch
        return Checkpoints(directory, snapshot_steps=every, read_only=True)

    def subjects(self, run: Run) -> Iterator[Subject]:
        """The checkpoint asked for; then, for verbs that can measure more, what the config adds.

        That is the checkpoint of early stopping beside the final one, and all snapshots.
        """
        if self.is_from_elsewhere:
            path = self.config.model.exported
            subject = Subject.of_file(run, path) if path else Subject.of_weights(run)
            workdirs.claim(self.workdir, self.config.to_dict())
            yield subject
            return
        every = self.config.train.snapshot_every * run.steps_per_epoch
        like = run.initial_state()
        with self.checkpoints(run) as checkpoints:
            steps = checkpoints.steps()
            which = self.arguments.checkpoint
            step = processes.by_first(lambda: _which(which, run, self.workdir, steps))
            state = checkpoints.restore(step, like)
            workdirs.claim(self.workdir, self.config.to_dict())
            yield Subject.of_state(run, state, which)
            if not hasattr(self.arguments, "no_snapshots"):
                return
            if self.config.evaluation.early_stopping and which == "final":
                best = processes.by_first(lambda: _which("best", run, self.workdir, steps))
                if best != step:
                    yield Subject.of_state(run, checkpoints.restore(best, like), "best")
            if self.arguments.no_snapshots:
                return
            for step in steps:
                if step and (step % every == 0 or step == run.total_steps):
                    try:
                        state = checkpoints.restore(step, like)
                    except UserError as error:
                        self.warn(f"{error}; this snapshot is left out")
                        continue
                    yield Subject.of_state(run, state, str(step), snapshot=True)

    def carry_out(self, tasks: Sequence[Task], bars: Bars) -> list[Record]:
        """The records of `tasks`; says what they warn of."""
        again = self.arguments.again
        found = carry_out(list(tasks), self.workdir, again=again, progress=bars)
        for record in found:
            for line in record.get("warnings", ()):
                self.warn(f"{record['name']}: {line}")
        return found

    def evaluate(self, subject: Subject, bars: Bars, *, autoattack: bool) -> dict[str, Record]:
        """Evaluation records by split; with AutoAttack if the config asks for it."""
        found = self.carry_out(evaluation_tasks(subject), bars)
        version = self.config.evaluation.autoattack
        if autoattack and version != "none" and not subject.snapshot:
            name = AUTOATTACKS[version]
            self.carry_out(attack_tasks(subject, name, self.workdir, splits=("test",)), bars)
        return {record["split"]: record for record in found}

    def flatness(self, subject: Subject, evaluated: Mapping[str, Record], bars: Bars) -> None:
        """The measures of the config, and those at other radii that flags ask for."""
        tasks = flatness_tasks(subject, evaluated)
        if subject.snapshot and self.config.snapshots.products:
            tasks.append(curvature_task(subject, "loss"))
        tasks += [
            flatness_task(subject, evaluated["test"], case, loss, radius=radius)
            for case in ("average", "worst")
            for radius in getattr(self.arguments, f"{case}_radii", ())
            for loss in ("loss", "rloss")
        ]
        self.carry_out(tasks, bars)

    def measure(self, run: Run, *, autoattack: bool, flatness: bool) -> Subject:
        """Everything about the checkpoint asked for, which is returned, and the snapshots."""
        check_measures(run)
        first: Subject | None = None
        for subject in self.subjects(run):
            first = first or subject
            with Bars(self.console) as bars:
                evaluated = self.evaluate(subject, bars, autoattack=autoattack)
                if flatness:
                    self.flatness(subject, evaluated, bars)
        assert first is not None, "subjects yields the checkpoint asked for, or raises"
        return first

    def report(self) -> None:
        def write() -> str:
            return str(reporting.write_report(self.workdir).resolve())

        path = processes.by_first(write)
        self.show_table()
        self.say(f"report: {path}")

    def report_sweep(self) -> None:
        """Of all runs below the folder."""
        path, table = reporting.write_sweep_report(self.workdir, methods.paper())
        for part in table.to_rich(self.console.width):
            self.console.print(part)
        for line in table.caption:
            self.say(line)
        self.say(f"report: {path.resolve()}")

    def show_table(self) -> None:
        if processes.is_first():
            self.show(reporting.table(reporting.read_run(self.workdir).records))

    def records_at(self, step: int) -> tuple[reporting.Record, ...]:
        """All records of one checkpoint, for the first process to show."""
        if not processes.is_first():
            return ()
        records = reporting.read_run(self.workdir).records
        return tuple(record for record in records if record.step == step)

    def show(self, table: reporting.ResultsTable | variants.Table | None) -> None:
        """Prints a table, if there is one."""
        if table is not None:
            self.console.print(table.to_rich())


def _in_words(section: ConfigDict, run: Run) -> str:
    """What names of tensors do not tell of a network with weights from elsewhere."""
    whitening = zip(run.model.mean, run.model.std, strict=True)
    listed = ", ".join(f"{mean:.4g}/{std:.4g}" for mean, std in whitening)
    head = f", cosines times {section.cosine_scale:g}" if section.cosine_scale else ""
    return (
        f"read as {section.name} of width {section.width}, {section.activation}, whitening by"
        f" {listed}{head}"
    )


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
