"""``rfm export``: a checkpoint as a file for elsewhere.

- ``jax``: the weights and the serialised program, see `rfm.models.exported`.
- ``safetensors``: the weights under this library's own names.
- ``torch``: the weights under the names of the published PyTorch networks, for
  ``load_state_dict(safetensors.torch.load_file(FILE))``.

Beside the latter two is a small JSON: the architecture, and what it was trained by.
"""

from pathlib import Path

from rfm import models
from rfm.cli.command import Command
from rfm.errors import UserError
from rfm.evaluation.tasks import Subject
from rfm.files import write_atomically
from rfm.models import exported, imported, weights

_ENDINGS = {"jax": ".npz", "safetensors": ".safetensors", "torch": "-torch.safetensors"}
FORMATS = tuple(_ENDINGS)
"""What ``--format`` knows."""


def run(command: Command) -> int:
    """Writes the file; the exit status."""
    wanted = command.arguments.format
    command.must_exist()
    _check(command, wanted)
    subject = _subject(command)
    name = f"exported/{command.config.name}-{subject.step}{_ENDINGS[wanted]}"
    given = command.arguments.out
    out = Path(given).expanduser() if given else command.workdir / name
    if wanted == "jax":
        content = exported.dumps(
            subject.apply_fn,
            subject.params,
            image_shape=subject.run.dataset.image_shape,
            precision=command.config.evaluation.matmul_precision,
        )
        write_atomically(out, content)
    else:
        _write_weights(subject, out, torch=wanted == "torch")
    command.say(f"exported: {out.resolve()}")
    return 0


def _check(command: Command, wanted: str) -> None:
    out = command.arguments.out
    if wanted == "jax":
        if out and Path(out).suffix == ".safetensors":
            raise UserError(f"--out {out}: say --format safetensors or torch; jax makes an .npz")
        return
    if command.config.model.exported:
        raise UserError(
            f"--format {wanted}: an exported model is a program, whose layers have no names;"
            " export from the run it comes from"
        )
    if out and Path(out).suffix != ".safetensors":
        raise UserError(f"--out {out}: the name of a --format {wanted} must end in .safetensors")
    beside = Path(out).expanduser().with_suffix(".json") if out else None
    if beside is not None and beside.exists() and not imported.is_description(beside):
        raise UserError(f"--out {out}: {beside} would be overwritten; give another name")


def _subject(command: Command) -> Subject:
    (subject,) = command.subjects(command.build())
    return subject


def _write_weights(subject: Subject, out: Path, *, torch: bool) -> None:
    run, (batch_stats,) = subject.run, subject.apply_fn.args
    if torch:
        arrays = models.to_torch(subject.params, batch_stats, run.model)
    else:
        arrays = imported.own_names(subject.params, batch_stats)
    section = run.config.model
    arguments = {name: getattr(section, name) for name in imported.ARGUMENTS}
    # Those of the data, where the config says nothing: elsewhere the data may be others.
    arguments |= {"mean": run.model.mean, "std": run.model.std}
    about = imported.description(
        arguments, image_shape=run.dataset.image_shape, classes=run.dataset.classes
    )
    about |= {
        "names": "torch" if torch else "rfm",
        "run": run.config.name,
        "step": subject.step,
        "checkpoint": subject.checkpoint,
        "config": run.config.to_dict(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    weights.write_safetensors(out, arrays, about)
