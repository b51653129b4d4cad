"""The records ``attack-NAME-test`` and ``attack-NAME-train``: RErr and RLoss by an ensemble.

Attacked are the same examples as in the evaluation records. The adversarial examples go to
an ``.npz`` beside the record; `saved_task` evaluates such a file on another model. An
ensemble takes long, so what is known is stored after each batch, in
``records/STEP/attack-NAME-SPLIT.progress.npz``: the same command goes on at the attack and
the batch where it was stopped.
"""

import dataclasses
import functools
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rfm import archives, processes
from rfm.attacks import FAB, PGD, EnsembleResult, Square, judge
from rfm.attacks.autoattack import Progress, autoattack
from rfm.attacks.ensembles import STAGES, VERSIONS, Stage, passes
from rfm.data.augment import to_float
from rfm.data.splits import Examples, Split, evaluation
from rfm.errors import UserError
from rfm.evaluation import records
from rfm.evaluation.robustness import estimate
from rfm.evaluation.tasks import Subject, Task, Tell, key_for
from rfm.files import write_atomically
from rfm.training.axes import attack
from rfm.types import Threat


def _pgd(settings: PGD) -> Stage:
    return Stage("pgd", dataclasses.replace(settings, misclassified_first=True))


def _alone(name: str, threat: Threat) -> tuple[Stage, ...]:
    return (STAGES[name](threat),)


_ENSEMBLES: dict[str, Callable[[Threat], tuple[Stage, ...]]] = {
    "autoattack": VERSIONS["standard"],
    "autoattack-plus": VERSIONS["plus"],
    **{name: functools.partial(_alone, name) for name in STAGES},
}
ATTACKS = (*_ENSEMBLES, "pgd")
"""What ``rfm attack --attack`` knows."""


AUTOATTACKS = {"standard": "autoattack", "plus": "autoattack-plus"}
"""The names of what ``config.evaluation.autoattack`` knows beside "none"."""


def attack_line(record: Mapping[str, Any]) -> str:
    """A record in a line: RErr, RLoss, and what broke how many."""
    rerr, rloss = record["values"]["rerr"], record["values"]["rloss"]
    broken = ", ".join(f"{name} {count}" for name, count in record["broken_by"].items())
    return (
        f"{record['name']}: RErr {rerr['value']:.1%}, RLoss {rloss['value']:.3f} on"
        f" {rerr['examples']} {record['split']} examples; broken by: {broken or 'nothing'}"
    )


def attack_tasks(
    subject: Subject, name: str, workdir: Path, *, splits: tuple[Split, ...]
) -> list[Task]:
    """RErr and RLoss by the attack called `name`, a task for each split.

    Args:
      subject: what is attacked.
      name: one of `ATTACKS`.
      workdir: where records go, and what is known of an unfinished attack.
      splits: of "test" and "train".
    """
    section = subject.run.config.evaluation
    pgd = attack(section, "config.evaluation")
    stages = (_pgd(pgd),) if name == "pgd" else _ENSEMBLES[name](pgd.threat)
    tasks = []
    for split in splits:
        examples = evaluation(subject.run.dataset, split, section.examples)
        protocol = {
            "threat": records.describe_threat(pgd.threat),
            "stages": [_describe(stage) for stage in stages],
            "examples": {"split": split, "first": 0, "count": len(examples.labels)},
            "batch_size": section.batch_size,
            "seed": section.seed,
        }
        record = subject.record("attack", f"attack-{name}-{split}", split, protocol)
        path = records.path_of(workdir, record)
        compute = functools.partial(_attack, subject, examples, stages, record, path)
        # What is known of an unfinished attack goes when the record is there, not before.
        finish = functools.partial(_progress_file(path).unlink, missing_ok=True)
        tasks.append(Task({**record, "attack": name}, compute, len(examples.labels), finish))
    return tasks


def _describe(stage: Stage) -> dict[str, Any]:
    settings = records.describe_attack(stage.attack) or {}
    return {"stage": stage.name, "passes": stage.passes, "targeted": stage.targeted, **settings}


def _attack(
    subject: Subject,
    examples: Examples,
    stages: tuple[Stage, ...],
    record: dict[str, Any],
    path: Path,
    tell: Tell,
) -> dict[str, Any]:
    stored = _progress_file(path)
    run, section = subject.run, subject.run.config.evaluation
    identity = json.dumps(record, sort_keys=True)
    count, classes = len(examples.labels), run.dataset.classes

    def on_progress(progress: Progress) -> None:
        processes.by_first(functools.partial(_store, stored, progress, identity))
        share = _share_done(stages, progress, classes)
        tell(min(round(count * share), count - 1), robust_accuracy=float(progress.stands.mean()))

    with jax.default_matmul_precision(section.matmul_precision):
        found = autoattack(
            subject.logits_fn,
            np.asarray(to_float(examples.images)),
            examples.labels,
            key_for(section.seed, f"attack-{examples.split}"),
            threat=stages[0].attack.threat,
            version=stages,
            batch_size=_sizes(section.batch_size, run.mesh.size),
            mesh=subject.run.mesh,
            progress=_resumed(stored, identity, count),
            on_progress=on_progress,
        )
    tell(count, robust_accuracy=float(found.robust.mean()))
    arrays = {"x": found.x, "y": examples.labels, "broken_by": found.broken_by}
    processes.by_first(functools.partial(_save, path.with_suffix(".npz"), **arrays))
    return _results(found)


def saved_task(subject: Subject, path: Path, split: Split) -> Task:
    """RErr and RLoss on adversarial examples that were saved before, a task.

    Args:
      subject: what they are tried on.
      path: an ``.npz``. Every array (n, h, w, c) in it is a set of adversarial examples, in
        [0, 1] or uint8, of the first n examples of the evaluation; other arrays are left alone.
      split: "test" or "train".

    Raises:
      UserError: no such file, or its arrays do not fit.
    """
    section, dataset = subject.run.config.evaluation, subject.run.dataset
    sets = {
        name: to_float(array) if array.dtype == np.uint8 else array.astype(np.float32)
        for name, array in archives.read(str(path), "rfm attack writes one").items()
        if array.ndim == 4
    }
    counts = sorted({len(array) for array in sets.values()})
    available = len(dataset.test_labels if split == "test" else dataset.train_labels)
    fits = [tuple(array.shape[1:]) == tuple(dataset.image_shape) for array in sets.values()]
    if len(counts) != 1 or not 1 <= counts[0] <= available or not all(fits):
        shapes = {name: tuple(array.shape) for name, array in sets.items()}
        raise UserError(
            f"{path}: need arrays of one shape (n, {', '.join(map(str, dataset.image_shape))}), n"
            f" at most {available}; got {shapes or 'none with four axes'}"
        )
    examples = evaluation(dataset, split, counts[0])
    threat = attack(section, "config.evaluation").threat
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    protocol = {
        "threat": records.describe_threat(threat),
        "saved": {"sha256": checksum, "sets": sorted(sets)},
        "examples": {"split": split, "first": 0, "count": counts[0]},
    }
    stem = re.sub(r"[^\w.-]", "_", path.stem)
    name = f"attack-saved-{stem}-{checksum[:8]}-{split}"
    record = subject.record("attack", name, split, protocol)

    def compute(tell: Tell) -> dict[str, Any]:
        with jax.default_matmul_precision(section.matmul_precision):
            found = judge(
                subject.logits_fn,
                np.asarray(to_float(examples.images)),
                examples.labels,
                {name: np.asarray(array) for name, array in sets.items()},
                threat=threat,
                batch_size=section.batch_size,
                mesh=subject.run.mesh,
            )
        tell(counts[0], robust_accuracy=float(found.robust.mean()))
        return _results(found)

    return Task({**record, "attack": "saved"}, compute, counts[0])


def _results(found: EnsembleResult) -> dict[str, Any]:
    """The fields of a record."""
    names, counts = np.unique(found.broken_by, return_counts=True)
    return {
        "values": {"rerr": estimate(~found.robust), "rloss": estimate(found.loss)},
        "broken_by": {name: int(n) for name, n in zip(names, counts, strict=True) if name},
        "warnings": list(found.warnings),
        "per_example": {
            "robust": found.robust.tolist(),
            "broken_by": found.broken_by.tolist(),
            "rloss": found.loss.tolist(),
        },
    }


def _sizes(batch_size: int, devices: int) -> tuple[int, ...]:
    """What the config says, and multiples of about an eighth of it for few examples."""
    eighth = -(-batch_size // (8 * devices)) * devices
    return (*range(eighth, batch_size, eighth), batch_size)


def _share_done(stages: tuple[Stage, ...], progress: Progress, classes: int) -> float:
    """Of the time that all takes, if nothing falls any more."""
    counts = [passes(stage, classes) for stage in stages]
    costs = [_cost(stage) * count for stage, count in zip(stages, counts, strict=True)]
    if progress.stage >= len(stages):
        return 1.0
    part = progress.tried / (counts[progress.stage] * len(progress.broken_by))
    done = sum(costs[: progress.stage]) + costs[progress.stage] * part
    return min(done / sum(costs), 1.0)


def _cost(stage: Stage) -> float:
    """Of one pass, in forward passes; a gradient is two more."""
    settings = stage.attack
    if isinstance(settings, Square):
        return float(settings.queries)
    per_step = 4.0 if isinstance(settings, FAB) else 3.0  # FAB looks again after each step
    repeats = max(getattr(settings, "draws", 1), 1) * settings.restarts
    return per_step * settings.steps * repeats


def _progress_file(path: Path) -> Path:
    return path.with_suffix(".progress.npz")


def _store(path: Path, progress: Progress, identity: str) -> None:
    _save(path, identity=np.array(identity), **progress._asdict())


def _save(path: Path, **arrays: Any) -> None:
    write_atomically(path, _packed(**arrays))


def _packed(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def _resumed(path: Path, identity: str, count: int) -> Progress | None:
    """What the first process finds, on all of them."""

    def found() -> bytes | None:
        stored = _stored(path, identity, count)
        return None if stored is None else _packed(**stored._asdict())

    content = processes.bytes_by_first(found)
    if content is None:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return _progress(archive)


def _progress(arrays: Mapping[str, np.ndarray]) -> Progress:
    numbers: dict[str, Any] = {name: int(arrays[name]) for name in ("stage", "tried")}
    return Progress(**{name: arrays[name] for name in Progress._fields} | numbers)


def _stored(path: Path, identity: str, count: int) -> Progress | None:
    """What an interrupted call stored, if it is whole and of the same protocol."""
    try:
        stored = archives.read(str(path), "")
        progress = _progress(stored)
        fits = str(stored["identity"]) == identity and len(progress.broken_by) == count
    except (UserError, KeyError):
        return None
    return progress if fits else None
