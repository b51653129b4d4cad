"""Whatever is wrong is told in one line, with exit status 2, and nothing is lost."""

import dataclasses
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to get it wrong.

    Attributes:
      command: what is typed after ``rfm``; ``{place}`` is a folder of the test's own,
        ``{new}`` a workdir that is not there yet, ``{old}`` one of a finished training.
      says: texts that the line must contain.
      setup: what is done to the place before; the finished workdir is its ``old``.
      installed: by the installed command itself; the others run in processes that fork
        after the imports, for the sake of time.
    """

    command: str
    says: tuple[str, ...]
    setup: Callable[[Path], object] | None = None
    installed: bool = False


def refused(command: str, *says: str, setup=None, installed=False) -> Case:
    return Case(command, says, setup, installed)


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda place: (place / name).write_bytes(data)


def remove(name: str) -> Callable[[Path], object]:
    return lambda place: shutil.rmtree(place / name)


def empty(name: str) -> Callable[[Path], object]:
    return lambda place: [shutil.rmtree(entry) for entry in (place / name).iterdir()]


def overwrite(pattern: str) -> Callable[[Path], object]:
    return lambda place: [f.write_text("x") for f in place.glob(pattern) if f.is_file()]


CONFIG = (
    "from rfm.configs import digits\ndef get_config(method='at'):\n    c = digits.get_config()\n"
)

COMMANDS = [
    refused("", "required: VERB", "rfm --help", installed=True),
    refused("trian", "no verb 'trian'; did you mean train?", installed=True),
    refused("'' --config digits", "no verb ''"),
    refused("--verbose train", "unknown flag --verbose"),
    refused("train --workdri {new}", "unknown flag --workdri; did you mean --workdir?"),
    refused("evaluate --no-snapshots", "unknown flag --no-snapshots"),
    refused("train here", "unexpected argument 'here'"),
    refused("train --workdir", "--workdir: expected one argument", "rfm train --help"),
    refused("train --workdir ''", "--workdir is empty"),
    refused("train --config '' --workdir {new}", "--config is empty"),
    refused("evaluate --checkpoint", "--checkpoint: expected one argument"),
    refused("data", "required: action, NAME"),
    refused("data prepar cifar10", "invalid choice: 'prepar'"),
    refused("data show a b", "unexpected argument 'b'"),
    refused("data show digits --config.seed=1", "rfm data takes no config"),
    refused("train --config.seed", "--config.seed needs a value"),
    refused("train --config.seed --config.model.width=3", "--config.seed needs a value"),
]

CONFIGS = [
    refused(
        "train --config cifar10.py:att --workdir {new}",
        "method 'att' is not one of",
        "did you mean 'at'?",
        installed=True,
    ),
    refused("run --config nope.py", "no config 'nope.py'", "digits", installed=True),
    refused("run --config cifar01", "no config 'cifar01'; did you mean cifar10?"),
    refused("run --config :at", "no config ''"),
    refused("run --config {place}", "no config"),
    refused("run --config configs/base.py", "no config 'configs/base.py'"),
    *[
        refused(
            "train --config {place}/mine.py --workdir {new}", *says, setup=write("mine.py", text)
        )
        for text, *says in [
            ("def get_config(:\n", "mine.py", "SyntaxError", "line 1"),
            ("", "mine.py has no function get_config"),
            ("def get_config():\n    return {}\n", "mine.py", "ConfigDict"),
            ("def get_config():\n    raise OSError('one\\ntwo')\n", "mine.py", "OSError: one two"),
            ("import sys\nsys.exit(0)\n", "mine.py", "SystemExit"),
            ("import absent\n", "mine.py", "No module named 'absent'"),
            (b"\xff\xfe\x00", "mine.py", "SyntaxError"),
            (CONFIG + "    del c.optimiser\n    return c\n", "mine.py lacks the field optimiser."),
            (CONFIG + "    c.model.widht = 8\n    return c\n", "did you mean model.width?"),
            (CONFIG + "    c.data.dir = None\n    return c\n", "config.data.dir must be a text"),
        ]
    ],
    refused(
        "train --config {place}/mine.py:at --workdir {new}",
        "mine.py cannot be loaded",
        "TypeError",
        setup=write("mine.py", "def get_config():\n    pass\n"),
    ),
    refused(
        "train --config {place}/mine.txt", "not a Python file", setup=write("mine.txt", "hello")
    ),
]

# (field and value, texts that the line must contain besides the field)
VALUES = [
    ("model.widht=3", "no field config.model.widht; did you mean config.model.width?"),
    ("=3", "no field config."),
    ("model=3", "config.model is a section", "model.width"),
    ("model.width=wide", "must be a whole number, got 'wide'"),
    ("model.width=1.5", "must be a whole number"),
    ("model.width=", "must be a whole number, got ''"),
    ("optimiser.learning_rate=fast", "must be a number, got 'fast'"),
    ("data.flip=maybe", "must be true or false"),
    ("optimiser.milestones=abc", "must be a whole number, got 'abc'"),
    ("optimiser.milestones=(1.5,)", "must be a whole number, got 1.5"),
    ("optimiser.milestones=(1,", "must be a tuple such as (1, 2)"),
    ("optimiser.milestones=(-1,)", "epochs from 0 to"),
    ("model.name=resnet", "did you mean 'resnet8'?"),
    ("model.activation=rleu", "did you mean 'relu'?"),
    ("model.dtype=float16", "bfloat16, float32"),
    ("model.width=0", "at least 1"),
    ("model.width=-3", "at least 1"),
    ("data.source=digit", "did you mean 'digits'?"),
    ("data.source=", "unknown data set ''"),
    ("data.source=tfds:cifar10", "run `rfm data prepare cifar10`"),
    ("data.source=tfds:cifra10", "did you mean 'cifar10'?"),
    ("data.source=tfds:imdb_reviews", "not image classification"),
    ("data.train_examples=5000", "from 1 to 1297"),
    ("data.train_examples=-5", "from 1 to 1297"),
    ("data.train_examples=10", "config.train.batch_size", "too few"),
    ("data.crop=-1", "at least 0"),
    ("data.crop=1000", "at most 8"),
    ("train.batch_size=2000", "1297 examples are too few"),
    ("train.batch_size=0", "at least 1"),
    ("train.epochs=0", "at least 1"),
    ("train.epochs=-1", "at least 1"),
    ("train.epochs=1000000000000", "at most"),
    ("train.epochs=1000000000", "steps are more than"),
    ("train.snapshot_every=0", "at least 1"),
    ("train.steps_per_dispatch=0", "at least 1"),
    ("seed=-1", "at least 0"),
    ("seed=99999999999999999999", "at most"),
    ("adversary.name=pdg", "did you mean 'pgd'"),
    ("adversary.threat=l1", "l2, linf"),
    ("adversary.loss=ce", "cross_entropy, kl, margin"),
    ("adversary.epsilon=-1", "epsilon must be a finite number >= 0"),
    ("adversary.epsilon=nan", "must be a finite number"),
    ("adversary.epsilon=inf", "must be a finite number"),
    ("adversary.steps=-1", "steps >= 0"),
    ("adversary.step_size=-1", "step_size >= 0"),
    ("adversary.step_size=inf", "must be a finite number"),
    ("objective.name=trdaes", "not one of"),
    ("optimiser.name=sdg", "'sgd'"),
    ("optimiser.learning_rate=0", "must be positive"),
    ("optimiser.learning_rate=-0.1", "must be positive"),
    ("optimiser.learning_rate=nan", "must be a finite number"),
    ("optimiser.momentum=1", "less than 1"),
    ("optimiser.weight_decay=-1", "at least 0"),
    ("optimiser.factor=-1", "at least 0"),
    ("validation.examples=501", "validation", "from 1 to 500"),
    ("validation.examples=0", "from 1 to 500"),
    ("validation.restarts=0", "restarts >= 1"),
    ("validation.steps=-1", "steps >= 0"),
    ("validation.threat=l3", "l2, linf"),
    # Of the measures, which come last: told before the training that they would follow.
    ("evaluation.examples=5000", "from 1 to 500"),
    ("evaluation.examples=0", "from 1 to 500"),
    ("evaluation.restarts=0", "restarts >= 1"),
    ("evaluation.steps=-1", "steps >= 0"),
    ("evaluation.epsilon=-1", "epsilon must be"),
    ("evaluation.batch_size=0", "at least 1"),
    ("evaluation.clean_train_examples=0", "at least 1"),
    ("evaluation.chunk=-1", "chunk >= 1"),
    ("evaluation.matmul_precision=hihg", "'highest'"),
    ("flatness.average.radius=-1", "at least 0"),
    ("flatness.average.radius=nan", "must be a finite number"),
    ("flatness.average.samples=0", "at least 1"),
    ("flatness.average.steps=-1", "at least 0"),
    ("flatness.worst.radius=-0.1", "at least 0"),
    ("flatness.worst.restarts=0", "at least 1"),
    ("flatness.worst.steps=-1", "at least 0"),
    ("flatness.splits=('val',)", "'val'"),
    ("snapshots.examples=501", "from 1 to 500"),
    ("snapshots.restarts=0", "at least 1"),
    ("snapshots.average_samples=-1", "at least 1"),
]
FIELDS = [
    refused(
        f'run --config digits --workdir {{new}} "--config.{assignment}"',
        # The data's own words name the data set instead of the field.
        "" if assignment.startswith("data.") else assignment.partition("=")[0].rpartition(".")[2],
        *says,
        installed=assignment in ("model.widht=3", "data.source=tfds:cifar10", "train.epochs=0"),
    )
    for assignment, *says in VALUES
]


def arrays(**changes: object) -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), np.uint8)
    labels = np.arange(80) % 10
    good = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}
    return {k: v for k, v in {**good, **changes}.items() if v is not None}


def save(**changes: object) -> Callable[[Path], object]:
    return lambda place: np.savez(place / "my.npz", **arrays(**changes))


def cut(place: Path) -> None:
    save()(place)
    data = (place / "my.npz").read_bytes()
    (place / "my.npz").write_bytes(data[: len(data) // 2])


def flip(place: Path) -> None:
    save()(place)
    data = bytearray((place / "my.npz").read_bytes())
    data[500] ^= 0xFF
    (place / "my.npz").write_bytes(data)


GOOD = arrays()
FILES = [
    ("there is no such file", lambda place: None),
    ("damaged, or not an .npz", cut),
    ("x_train is damaged", flip),
    ("damaged, or not an .npz", write("my.npz", "hello")),
    ("damaged, or not an .npz", write("my.npz", "")),
    ("lacks y_test", save(y_test=None)),
    ("uint8", save(x_train=GOOD["x_train"] / 255)),
    ("5 labels", save(y_train=GOOD["y_train"][:5])),
    ("channels first", save(x_train=GOOD["x_train"].transpose(0, 3, 1, 2).repeat(8, 2))),
    ("one shape", save(x_test=GOOD["x_test"][:, :4])),
    ("label 14", save(y_test=GOOD["y_test"] + 5)),
    ("from -1", save(y_train=GOOD["y_train"] - 1)),
    ("integers", save(y_train=GOOD["y_train"] / 2)),
    ("pickled Python objects", save(x_train=np.array([{}, 1], object))),
]
DATA = [
    *[refused("data show {place}/my.npz", "my.npz", text, setup=make) for text, make in FILES],
    *[
        refused(
            "train --config digits --workdir {new} --config.data.source={place}/my.npz",
            "my.npz",
            text,
            setup=make,
            installed=text == "pickled Python objects",
        )
        for text, make in FILES[:3] + FILES[-1:]
    ],
    refused("data show mnits", "unknown data set 'mnits'; did you mean 'tfds:mnist'?"),
    refused("data show tfds:cifar10", "run `rfm data prepare cifar10`"),
    refused("data prepare cifra10", "did you mean 'cifar10'?"),
    refused("data prepare imdb_reviews", "not image classification"),
]

WORKDIRS = [
    refused("train --workdir {old} --config.model.width=8", "model.width is 4 there and 8 here"),
    refused(
        "run --config cifar10_small --workdir {old} --config.data.source=digits",
        "belongs to another config",
        "give another --workdir",
        installed=True,
    ),
    refused("train --workdir {place}/file", "is a file", setup=write("file", "")),
    refused("train --workdir {place}/file/below", "Not a directory", setup=write("file", "")),
    refused("train --workdir /dev/null/x", "/dev/null/x: Not a directory", installed=True),
    refused(f"train --workdir {{place}}/{'x' * 300}", "File name too long"),
    *[
        refused(f"{verb} --workdir {{old}}", "config.json", setup=write("old/config.json", text))
        for verb, text in [("train", "{"), ("evaluate", "[]"), ("report", ""), ("flatness", "\xff")]
    ],
    refused(
        "train --workdir {old}",
        "belongs to another config",
        setup=write("old/config.json", json.dumps({"name": "at"})),
    ),
    refused(
        "train --config digits --workdir {old}",
        "no config.json",
        setup=lambda place: (place / "old/config.json").unlink(),
    ),
    *[
        refused(f"{verb} --workdir {{new}}", "new", "rfm run", installed=verb == "evaluate")
        for verb in ("evaluate", "flatness", "report")
    ],
    *[
        refused(f"{verb} --workdir {{place}}", "no config.json")
        for verb in ("evaluate", "flatness")
    ],
    refused("report --workdir {place}", "nothing to report"),
    refused("report {place}", "nothing to report", "a folder of runs", installed=True),
    refused("report {new}", "no such directory"),
    refused("report {place} --workdir {new}", "DIR and --workdir are the same"),
    refused("report ''", "DIR is empty"),
    refused("report {place} again", "unexpected argument 'again'"),
    *[
        refused(f"{verb} --workdir {{old}}", "no checkpoint", "rfm train", setup=make)
        for verb in ("evaluate", "flatness")
        for make in (remove("old/checkpoints"), empty("old/checkpoints"))
    ],
    *[
        refused(
            f"evaluate --workdir {{old}} --checkpoint {name}", f"no checkpoint '{name}'", "best"
        )
        for name in ("bset", "7", "-1", "1.0")
    ],
    refused(
        "evaluate --workdir {old}",
        "at step 10 of 15",
        "--checkpoint 10",
        setup=remove("old/checkpoints/15"),
    ),
    refused(
        "evaluate --workdir {old} --checkpoint best",
        "no snapshot",
        setup=write("old/metrics.jsonl", ""),
    ),
    refused(
        "evaluate --workdir {old} --checkpoint best",
        "metrics.jsonl: line 1 is damaged",
        setup=write("old/metrics.jsonl", "{]\n"),
    ),
    refused(
        "evaluate --workdir {old} --config.evaluation.examples=501",
        "config.evaluation.examples must be from 1 to 160",
    ),
    refused(
        "evaluate --workdir {old} --config.evaluation.batch_size=65",
        "config.evaluation.batch_size must be a multiple of 2",
    ),
    refused(
        "evaluate --workdir {old}",
        "checkpoints/15 cannot be read",
        setup=overwrite("old/checkpoints/15/*/*"),
    ),
    refused(
        "train --workdir {old}",
        "no checkpoint in",
        "is whole",
        setup=overwrite("old/checkpoints/*/*/*"),
        installed=True,
    ),
]

TABLE = [*COMMANDS, *CONFIGS, *FIELDS, *DATA, *WORKDIRS]


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.command[:90])
def test_one_line_and_nothing_lost(case, rfm, quick_rfm, contents, request, tmp_path):
    if "{old}" in case.command:
        shutil.copytree(request.getfixturevalue("trained"), tmp_path / "old")
    if case.setup:
        case.setup(tmp_path)
    before = contents(tmp_path)
    command = case.command.format(place=tmp_path, new=tmp_path / "new", old=tmp_path / "old")
    run = rfm if case.installed else quick_rfm
    line = run(*shlex.split(command), cwd=tmp_path).line
    assert not [text for text in case.says if text not in line], line
    after = contents(tmp_path)
    after = {name: data for name, data in after.items() if "__pycache__" not in name}
    assert after == before
    assert not (tmp_path / "new").exists()
