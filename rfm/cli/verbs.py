"""What each verb does; the flags are in `rfm.cli.parser`."""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import rich.box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rfm import processes, reporting
from rfm.cli import data_verbs, export_verb, methods_verb, sweep_verb, zoo_verb
from rfm.cli.bars import Bars
from rfm.cli.command import Command
from rfm.cli.signals import Stop
from rfm.errors import UserError, did_you_mean
from rfm.evaluation.attack import ATTACKS, AUTOATTACKS, attack_line, attack_tasks, saved_task
from rfm.evaluation.check import check_measures
from rfm.evaluation.compare import compare
from rfm.evaluation.measure_curvature import curvature_task, density_task
from rfm.evaluation.measure_flatness import flatness_task
from rfm.evaluation.measure_landscape import KINDS, LOSSES, landscape_task
from rfm.evaluation.tasks import Subject
from rfm.reporting import landscapes, variants


def _run(arguments: argparse.Namespace, stop: Stop) -> int:
    command = Command(arguments, stop)
    if command.is_from_elsewhere:
        command.must_exist()
    run = command.build()
    command.say(
        f"{command.config.name} on {run.dataset.name}, {run.mesh.size} x"
        f" {run.mesh.devices.flat[0].device_kind}, workdir {command.workdir}"
    )
    check_measures(run)
    if not command.is_from_elsewhere and (status := command.train(run)):
        return status
    command.measure(run, autoattack=True, flatness=True)
    command.report()
    return 0


def _train(arguments: argparse.Namespace, stop: Stop) -> int:
    command = Command(arguments, stop)
    command.must_train()
    return command.train(command.build())


def _evaluate(arguments: argparse.Namespace, stop: Stop) -> int:
    command = Command(arguments, stop)
    command.must_exist()
    command.measure(command.build(), autoattack=True, flatness=False)
    command.show_table()
    return 0


def _flatness(arguments: argparse.Namespace, stop: Stop) -> int:
    command = Command(arguments, stop)
    command.must_exist()
    _check_rescale(command)
    run = command.build()
    subject = command.measure(run, autoattack=False, flatness=True)
    for rescaled in _rescaled(command, subject):
        _measure_rescaled(command, rescaled)
    records = command.records_at(subject.step)
    command.show_table()
    command.show(variants.details(records))
    command.show(variants.radii(records))
    if arguments.rescale:
        command.show(variants.rescaled(records))
    return 0


def _check_rescale(command: Command) -> None:
    factors = command.arguments.rescale
    if not all(factors):
        raise UserError("--rescale: the factors must be positive")
    if factors and command.config.model.exported:
        raise UserError("--rescale: an exported model does not say which layers these are")


def _rescaled(command: Command, subject: Subject) -> Iterator[Subject]:
    """The networks that ``--rescale`` asks for."""
    for factor in command.arguments.rescale:
        try:
            yield subject.rescaled(factor)
        except ValueError as error:
            raise UserError(f"--rescale: {error}") from error


def _measure_rescaled(command: Command, subject: Subject) -> None:
    """What Fig. F and Table A have of a rescaled network."""
    with Bars(command.console) as bars:
        evaluated = command.evaluate(subject, bars, autoattack=False)
        tasks = [
            flatness_task(subject, evaluated["test"], case, loss)
            for case, loss in (("worst", "loss"), ("average", "rloss"), ("worst", "rloss"))
        ]
        command.carry_out([*tasks, curvature_task(subject, "loss")], bars)


def _attack(arguments: argparse.Namespace, stop: Stop) -> int:
    command = Command(arguments, stop)
    command.must_exist()
    if arguments.saved and arguments.attack is not None:
        raise UserError("--saved replaces --attack: give one of them")
    name, split = arguments.attack or "autoattack", arguments.split
    _among("attack", [name], ATTACKS)  # before anything is loaded
    run = command.build()
    check_measures(run)
    for subject in command.subjects(run):
        if arguments.saved:
            tasks = [saved_task(subject, Path(arguments.saved).expanduser(), split)]
        else:
            tasks = attack_tasks(subject, name, command.workdir, splits=(split,))
        with Bars(command.console) as bars:
            found = command.carry_out(tasks, bars)
        for record in found:
            command.say(attack_line(record))
    if name in AUTOATTACKS.values() and not arguments.saved:
        command.show_table()
    return 0


def _curvature(arguments: argparse.Namespace, stop: Stop) -> int:
    command = Command(arguments, stop)
    command.must_exist()
    run = command.build()
    check_measures(run)
    for subject in command.subjects(run):
        with Bars(command.console) as bars:
            names = ("loss", "rloss") if arguments.rloss else ("loss",)
            tasks = [curvature_task(subject, name) for name in names]
            if arguments.density:
                tasks += [density_task(subject, name) for name in names]
            command.carry_out(tasks, bars)
        command.show(variants.curvature(command.records_at(subject.step)))
    return 0


def _landscape(arguments: argparse.Namespace, stop: Stop) -> int:
    command = Command(arguments, stop)
    command.must_exist()
    kinds, names = arguments.kinds.split(","), arguments.losses.split(",")
    _among("kind of landscape", kinds, (*KINDS, "surface"))
    _among("loss", names, LOSSES)
    _check_rescale(command)
    runs = [Path(place).expanduser() for place in (arguments.beside or "").split(",") if place]
    others: list[reporting.Run] = []  # a wrong one is told at once
    processes.by_first(lambda: others.extend(map(reporting.read_run, runs)))
    run = command.build()
    check_measures(run)
    for subject in command.subjects(run):
        with Bars(command.console) as bars:
            for network in (subject, *_rescaled(command, subject)):
                tasks = [landscape_task(network, kind, name) for kind in kinds for name in names]
                command.carry_out(tasks, bars)
    if not processes.is_first():
        return 0
    mine = reporting.read_run(command.workdir)
    drawn = [dataclasses.replace(mine, records=command.records_at(subject.step)), *others]
    for place, other in zip(runs, others, strict=True):
        if not any(record.kind == "landscape" for record in other.records):
            command.warn(f"{place} has no landscapes yet; rfm landscape makes them")
    for path in landscapes.write(drawn, [command.workdir, *runs], command.workdir):
        command.say(f"drawn: {path.resolve()}")
    return 0


def _compare(arguments: argparse.Namespace, stop: Stop) -> int:
    if not 0 < arguments.level < 1:
        raise UserError(f"--level must be between 0 and 1, got {arguments.level}")
    places = Path(arguments.first).expanduser(), Path(arguments.second).expanduser()
    found = compare(*places, level=arguments.level)
    table = Table(box=rich.box.SIMPLE_HEAD, caption_justify="left")
    for title in ("", "first", "second", "difference", f"{arguments.level:.0%} interval"):
        table.add_column(title, justify="right" if title else "left")
    notes = [
        f"First: {places[0]}. Second: {places[1]}.",
        f"* The interval excludes zero; one in {1 / (1 - arguments.level):.0f} does by chance.",
        "Intervals are over examples and weight draws, given these two networks: training again"
        " would move both.",
    ]
    for row in found:
        cells = [row.label, *(f"{value:.4g}" for value in row.values)]
        if row.interval is None:
            notes.append(f"{row.label} is not compared: {row.problem}.")
        else:
            mark = "*" if row.interval.excludes_zero else " "
            low, high = row.interval.low, row.interval.high
            cells += [f"{row.interval.value:+.3g}{mark}", f"{low:+.3g} to {high:+.3g}"]
        table.add_row(*cells)
    table.caption = Text("\n".join(notes))
    Console().print(table)
    return 0


def _export(arguments: argparse.Namespace, stop: Stop) -> int:
    return export_verb.run(Command(arguments, stop))


def _report(arguments: argparse.Namespace, stop: Stop) -> int:
    command = Command(arguments, stop)
    if reporting.is_run(command.workdir):
        command.report()
    else:
        command.report_sweep()
    return 0


def _data(arguments: argparse.Namespace, stop: Stop) -> int:
    return data_verbs.run(arguments)


def _methods(arguments: argparse.Namespace, stop: Stop) -> int:
    return methods_verb.run(arguments)


def _zoo(arguments: argparse.Namespace, stop: Stop) -> int:
    return zoo_verb.run(arguments)


def _sweep(arguments: argparse.Namespace, stop: Stop) -> int:
    return sweep_verb.run(arguments, stop)


VERBS: dict[str, Callable[[argparse.Namespace, Stop], int]] = {
    "run": _run,
    "train": _train,
    "evaluate": _evaluate,
    "flatness": _flatness,
    "attack": _attack,
    "export": _export,
    "curvature": _curvature,
    "landscape": _landscape,
    "compare": _compare,
    "report": _report,
    "data": _data,
    "methods": _methods,
    "zoo": _zoo,
    "sweep": _sweep,
}


def _among(what: str, given: list[str], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"no {what} {name!r} among {', '.join(known)}{hint}")
