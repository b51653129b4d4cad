"""A sweep as its report sees it: all runs below a folder.

`read_sweep` finds every run below a folder, at any depth, and reads of each what a table over
runs needs: config, metrics, and the records of its last checkpoint. A run that is damaged or
has nothing yet is listed with its problem; it never stops the others::

    sweep = rfm.reporting.sweep.read_sweep("runs")
    [(member.path, member.progress) for member in sweep]
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rfm.errors import UserError
from rfm.reporting.records import ELSEWHERE, Record, count, latest, read_json
from rfm.reporting.run import Run, read_what_is_there
from rfm.reporting.tables import MEASURES

_TRACES = ("metrics.jsonl", "records", "checkpoints")
"""One of them is beside the config.json of every run of rfm that has begun."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
      path: its folder as seen from that of the sweep, with slashes.
      run: what it left, snapshots aside.
      problems: a line for each damaged file and each measure that is not there yet.
      report: has it a report.html of its own?
    """

    path: str
    run: Run
    problems: tuple[str, ...] = ()
    report: bool = False

    @property
    def records(self) -> tuple[Record, ...]:
        """Of the last checkpoint that was measured."""
        return latest(self.run.records)

    @property
    def final(self) -> tuple[Record, ...]:
        """Of the end of training, or of a model from elsewhere; () if that was not measured."""
        _, total = self.steps
        ends = ("final", *ELSEWHERE)
        return tuple(r for r in self.records if r.checkpoint in ends or r.step == total)

    @property
    def early_stopped(self) -> tuple[Record, ...]:
        """Of the snapshot that early stopping picks; () before the end, or if not measured.

        It may be the last one. Which it is, metrics say; without them, what the records of
        ``rfm evaluate --checkpoint best`` say of themselves.
        """
        done, total = self.steps
        if total is not None and done < total:
            return ()
        best = self.run.metrics.early_stopping()
        there = [r for r in self.run.records if not (r.snapshot or r.variant)]
        if best is None:
            return tuple(r for r in there if r.checkpoint == "best")
        return tuple(r for r in there if r.step == best.step)

    @property
    def seed(self) -> int | None:
        """Of training."""
        return count(self.run.config.get("seed"))

    @property
    def steps(self) -> tuple[int, int | None]:
        """How many training steps are done, and of how many, None where that is not known."""
        metrics, records = self.run.metrics, self.run.records
        lines: list[tuple[int, float | None]] = [
            *((line.step, line.epoch) for line in metrics.train),
            *((line.step, line.epoch) for line in metrics.validation),
            *((record.step, record.epoch) for record in records),
        ]
        step, epoch = max(lines, key=lambda line: line[0], default=(0, None))
        train = self.run.config.get("train")
        epochs = count(train.get("epochs")) if isinstance(train, dict) else None
        return step, round(epochs * step / epoch) if epochs and epoch else None

    @property
    def finished(self) -> bool:
        """Is training done?"""
        done, total = self.steps
        return total is not None and done >= total

    @property
    def progress(self) -> str:
        """How far training is, in words."""
        done, total = self.steps
        checkpoints = (record.checkpoint for record in self.run.records)
        if elsewhere := next(filter(ELSEWHERE.get, checkpoints), None):
            return ELSEWHERE[elsewhere]
        if not done:
            return "not begun"
        if total is None:
            return f"at step {done:,}"
        return f"finished, {done:,} steps" if done >= total else f"at step {done:,} of {total:,}"


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Is `folder` that of one run, and not a folder of runs?"""
    folder = Path(folder)
    return any((folder / name).exists() for name in ("config.json", *_TRACES))


def read_sweep(folder: str | os.PathLike[str]) -> tuple[Member, ...]:
    """All runs below `folder`, by path.

    Hidden folders are left alone, and nothing is sought below a run.

    Raises:
      UserError: there is no such folder, or no run in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such directory; `rfm run` makes one")
    members = [_read(folder, place) for place in _places(folder, {folder.resolve()})]
    if not members:
        raise UserError(
            f"{folder}: nothing to report yet: neither a run (config.json) nor a folder of runs;"
            " `rfm run` or `rfm sweep` makes one"
        )
    return _with_gaps(members)


def _places(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """The folders of runs below `folder`; through links, but none twice."""
    try:
        below = sorted(place for place in folder.iterdir() if place.is_dir())
    except OSError:  # not ours to read
        return
    for place in below:
        if place.name.startswith(".") or place.resolve() in seen:
            continue
        seen.add(place.resolve())
        if not (place / "config.json").is_file():
            yield from _places(place, seen)
        elif _is_workdir(place):
            yield place


def _is_workdir(place: Path) -> bool:
    """Is this config.json one of rfm's, or what is left of one?"""
    if any((place / name).exists() for name in _TRACES):
        return True
    try:
        config = read_json(place / "config.json")
    except UserError:
        return True  # the user is told that it is damaged
    return isinstance(config, dict) and {"name", "seed"} <= config.keys()


def _read(folder: Path, place: Path) -> Member:
    path = place.relative_to(folder).as_posix()
    try:
        run = read_what_is_there(place, snapshots=False)
    except UserError as error:
        reason = str(error).removeprefix(f"{place}{os.sep}")
        return Member(path, Run(place.name, problems=(reason,)), (reason,))
    interrupted = [
        f"{file.name.removesuffix('.progress.npz')} was interrupted"
        for file in sorted(place.glob("records/*/*.progress.npz"))
    ]
    return Member(path, run, (*run.problems, *interrupted), (place / "report.html").is_file())


def _with_gaps(members: Sequence[Member]) -> tuple[Member, ...]:
    """Says of each finished run which test measures it lacks that most others have."""
    wanted = [measure.record.format("test") for measure in MEASURES]
    finished = [{r.name for r in member.records} for member in members if member.finished]
    counts = Counter(name for names in finished for name in names if name in wanted)
    usual = [name for name in dict.fromkeys(wanted) if 2 * counts[name] > len(finished)]

    def with_gaps(member: Member) -> Member:
        there = {record.name for record in member.records}
        missing = [name for name in usual if name not in there]
        if not member.finished or not (missing or not there):
            return member
        gap = f"not measured: {', '.join(missing)}" if there else "not evaluated"
        return dataclasses.replace(member, problems=(*member.problems, gap))

    return tuple(map(with_gaps, members))
