"""``rfm data``: prepare a data set, look at one, label images by a model."""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from rfm import data
from rfm.cli.bars import Bars
from rfm.errors import UserError
from rfm.evaluation.robustness import clean
from rfm.files import write_atomically
from rfm.models import exported
from rfm.types import bind

_BATCH = 256


def run(arguments: argparse.Namespace) -> int:
    """What the action says; the exit status."""
    wanted = {"pseudo-label": ("exported", "out"), "convert": ("out",)}.get(arguments.action, ())
    for flag in ("exported", "out"):
        if bool(getattr(arguments, flag)) != (flag in wanted):
            verb = "needs" if flag in wanted else "takes no"
            raise UserError(f"rfm data {arguments.action} {verb} --{flag}; see rfm data --help")
    actions = {
        "prepare": _prepare,
        "show": _show,
        "pseudo-label": _pseudo_label,
        "convert": _convert,
    }
    actions[arguments.action](arguments, Console())
    return 0


def _prepare(arguments: argparse.Namespace, console: Console) -> None:
    name = arguments.name.removeprefix("tfds:")
    where = data.prepare(name, arguments.data_dir)
    _say(console, f"{name} is ready in {where}")


def _convert(arguments: argparse.Namespace, console: Console) -> None:
    dataset = data.load(arguments.name, data_dir=arguments.data_dir)
    data.write(dataset, arguments.out)
    _say(console, f"{dataset.name} is in {Path(arguments.out).expanduser().absolute()}")


def _show(arguments: argparse.Namespace, console: Console) -> None:
    found = data.load(arguments.name, data_dir=arguments.data_dir)
    height, width, channels = found.image_shape
    _say(
        console,
        f"{found.name}: {len(found.train_labels)} training and {len(found.test_labels)} test"
        f" images of {height}x{width}x{channels}, {found.classes} classes"
        f" ({', '.join(found.class_names)})",
    )


def _pseudo_label(arguments: argparse.Namespace, console: Console) -> None:
    model = exported.load(arguments.exported)
    images = data.extra.read_unlabelled(arguments.name, image_shape=model.image_shape)
    with Bars(console) as bars:
        found = clean(
            bind(model.apply_fn, model.params),
            images,
            np.zeros(len(images), np.int32),
            batch_size=min(_BATCH, len(images)),
            on_batch=lambda done: bars("pseudo-label", done, len(images), {}),
        )
    out = Path(arguments.out).expanduser()
    write_atomically(out, data.extra.dumps(images, found.prediction))
    counts = np.bincount(found.prediction, minlength=model.classes)
    _say(console, f"{len(images)} images labelled ({', '.join(map(str, counts))} by class): {out}")


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
