"""The records ``attack-NAME-test`` and ``attack-NAME-train``: RErr and RLoss by an ensemble.

Attacked are the same examples as in the evaluation records. An ensemble takes long, so
what is known is stored after each batch, in ``records/STEP/attack-NAME-SPLIT.npz``: the
same command goes on at the attack and the batch where it was stopped.
"""

import dataclasses
import functools
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rfm.attacks import FAB, PGD, Square
from rfm.attacks.autoattack import Progress, autoattack
from rfm.attacks.ensembles import STAGES, VERSIONS, Stage, passes
from rfm.data.augment import to_float
from rfm.data.splits import Examples, Split, evaluation
from rfm.evaluation import records
from rfm.evaluation.robustness import estimate
from rfm.evaluation.tasks import Subject, Task, Tell, key_for
from rfm.training.build import attack
from rfm.types import Threat, bind
from rfm.workdir import write_atomically


def _pgd(attack: PGD) -> Stage:
    return Stage("pgd", dataclasses.replace(attack, misclassified_first=True))


def _alone(name: str, threat: Threat) -> tuple[Stage, ...]:
    return (STAGES[name](threat),)


_ENSEMBLES: dict[str, Callable[[Threat], tuple[Stage, ...]]] = {
    "autoattack": VERSIONS["standard"],
    "autoattack-plus": VERSIONS["plus"],
    **{name: functools.partial(_alone, name) for name in STAGES},
}
ATTACKS = (*_ENSEMBLES, "pgd")
"""What ``rfm attack --attack`` knows."""


def attack_tasks(
    subject: Subject, name: str, workdir: Path, *, splits: tuple[Split, ...], again: bool
) -> list[Task]:
    """RErr and RLoss by the attack called `name`, a task for each split.

    Args:
      subject: what is attacked.
      name: one of `ATTACKS`.
      workdir: where records go, and what is known of an unfinished attack.
      splits: of "test" and "train".
      again: forget what is known of an unfinished attack.
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
        stored = records.path_of(workdir, record).with_suffix(".npz")
        compute = functools.partial(_attack, subject, examples, stages, record, stored, again)
        tasks.append(Task({**record, "attack": name}, compute, len(examples.labels)))
    return tasks


def _describe(stage: Stage) -> dict[str, Any]:
    settings = records.describe_attack(stage.attack) or {}
    return {"stage": stage.name, "passes": stage.passes, "targeted": stage.targeted, **settings}


def _attack(
    subject: Subject,
    examples: Examples,
    stages: tuple[Stage, ...],
    record: dict[str, Any],
    stored: Path,
    again: bool,
    tell: Tell,
) -> dict[str, Any]:
    run, state, section = subject.run, subject.state, subject.run.config.evaluation
    identity = json.dumps(record, sort_keys=True)
    count, classes = len(examples.labels), run.dataset.classes

    def on_progress(progress: Progress) -> None:
        _store(stored, progress, identity)
        share = _share_done(stages, progress, classes)
        tell(min(round(count * share), count - 1), error=1 - float(progress.stands.mean()))

    with jax.default_matmul_precision(section.matmul_precision):
        found = autoattack(
            bind(run.apply_fn(state.batch_stats), state.params),
            np.asarray(to_float(examples.images)),
            examples.labels,
            key_for(section.seed, f"attack-{examples.split}"),
            threat=stages[0].attack.threat,
            version=stages,
            batch_size=section.batch_size,
            place=subject.place,
            progress=None if again else _stored(stored, identity, count),
            on_progress=on_progress,
        )
    tell(count, error=1 - float(found.robust.mean()))
    stored.unlink(missing_ok=True)
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


def _share_done(stages: tuple[Stage, ...], progress: Progress, classes: int) -> float:
    """Of the time that all takes, if nothing falls any more."""
    standing = int(progress.stands.sum())
    costs = [_cost(stage) * passes(stage, classes) for stage in stages]
    if progress.stage >= len(stages):
        return 1.0
    stage = stages[progress.stage]
    part = progress.part + 1 - len(progress.waiting) / max(standing, 1)
    done = sum(costs[: progress.stage]) + _cost(stage) * max(part, 0.0)
    return min(done / sum(costs), 1.0)


def _cost(stage: Stage) -> float:
    """Of one pass, in forward passes; a gradient is two more."""
    settings = stage.attack
    if isinstance(settings, Square):
        return float(settings.queries)
    per_step = 4.0 if isinstance(settings, FAB) else 3.0  # FAB looks again after each step
    return per_step * settings.steps * max(getattr(settings, "draws", 1), 1)


def _store(path: Path, progress: Progress, identity: str) -> None:
    content = io.BytesIO()
    np.savez(content, identity=np.array(identity), **progress._asdict())
    write_atomically(path, content.getvalue())


def _stored(path: Path, identity: str, count: int) -> Progress | None:
    """What an interrupted call stored, if it is whole and of the same protocol."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["identity"]) != identity:
                return None
            arrays = {name: archive[name] for name in Progress._fields}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if len(arrays["broken_by"]) != count:
        return None
    numbers = {name: int(arrays[name]) for name in ("stage", "part")}
    return Progress(**{**arrays, **numbers})
