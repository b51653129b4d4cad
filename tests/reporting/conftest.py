"""A plausible working directory of a finished run, made of files alone."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_of_method
from rfm.configs import methods

from rfm.reporting import findings, read_sweep, sweep_snapshots
from rfm.reporting.finding import Finding
from rfm.reporting.sweep_rows import rows

STEPS_PER_EPOCH = 100
EPOCHS = 60
Entry = dict[str, Any]
Shape = tuple[int, int, int]


def attack(steps: int, restarts: int) -> Entry:
    return {
        "name": "pgd",
        "norm": "linf",
        "epsilon": 8 / 255,
        "steps": steps,
        "step_size": 0.007,
        "restarts": restarts,
    }


def protocol(**settings: Any) -> Entry:
    return {
        **settings,
        "batch_size": 128,
        "seed": 0,
        "dtype": "float32",
        "matmul_precision": "highest",
        "device": {"platform": "cpu", "kind": "cpu", "count": 2},
        "versions": {"rfm": "0.1.0", "jax": "0.8.1"},
        "git": "0123456789abcdef",
        "data": {"source": "cifar10", "train_examples": None},
    }


def value(mean: float | None, error: float | None, examples: int) -> Entry:
    return {"value": mean, "standard_error": error, "examples": examples}


def evaluation(split: str, shape: Shape = (8, 8, 1), **changes: Any) -> Entry:
    """An evaluation record; on test with eight adversarial examples of `shape`."""
    train = split == "train"
    entry: Entry = {
        "schema": 1,
        "kind": "evaluation",
        "name": f"evaluation-{split}",
        "run": "at",
        "step": EPOCHS * STEPS_PER_EPOCH,
        "epoch": float(EPOCHS),
        "checkpoint": "final",
        "split": split,
        "values": {
            "err": value(0.0033 if train else 0.2016, 0.0057 if train else 0.004, 10000),
            "loss": value(0.0212 if train else 0.7514, 0.0008, 10000),
            "rerr": value(0.085 if train else 0.61, 0.0088 if train else 0.0154, 1000),
            "rloss": value(0.1912 if train else 3.9149, 0.0171 if train else 0.105, 1000),
            "rerr_correct": value(0.51, 0.018, 798),
            "rloss_correct": value(0.18 if train else 2.31, 0.08, 798),
            "rloss_incorrect": value(1.9 if train else 9.53, 0.31, 202),
        },
        "protocol": protocol(
            attack=attack(20, 10), examples={"split": split, "first": 0, "count": 1000}
        ),
        "seconds": 12.5,
        "per_example": {"rloss": [0.5, 1.5]},
        "field_of_tomorrow": {"any": "thing"},
    }
    if not train:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (8, *shape), np.uint8)
        noise = rng.choice([-8 / 255, 8 / 255], images.shape)
        entry["adversarial"] = {
            "indices": list(range(8)),
            "labels": [3, 8, 8, 0, 6, 6, 1, 6],
            "clean_predictions": [3, 8, 8, 0, 6, 6, 1, 4],
            "predictions": [5, 8, 8, 8, 4, 6, 9, 4],
            "images": images.tolist(),
            "adversarial_images": np.clip(images / 255 + noise, 0, 1).tolist(),
        }
    return entry | changes


def flatness(case: str, loss: str, mean: float, error: float | None, **changes: Any) -> Entry:
    """A flatness record on the test split."""
    average = case == "average"
    robust = loss == "rloss"
    settings: Entry = {
        "ball": {"radius": 0.5 if average else 0.003, "per": "layer"},
        "examples": {"split": "test", "first": 0, "count": 1000},
    }
    if average:
        settings["samples"] = 10
        settings["attack"] = attack(20, 1) if robust else None
    else:
        settings["threat"] = {"norm": "linf", "epsilon": 8 / 255} if robust else None
        settings |= {"steps": 20, "restarts": 10, "weight_step_size": 0.001}
        settings |= {"input_step_size": 0.007} if robust else {}
    settings["reference"] = attack(20, 10) if robust else None
    return {
        "schema": 1,
        "kind": "flatness",
        "name": f"flatness-{case}-{loss}-test",
        "run": "at",
        "step": EPOCHS * STEPS_PER_EPOCH,
        "epoch": float(EPOCHS),
        "checkpoint": "final",
        "split": "test",
        "values": {
            "flatness": value(mean, error, 1000),
            "reference": value(1.0, 0.1, 1000),
            "perturbed": value(1.0 + mean, 0.1, 1000),
        },
        "protocol": protocol(**settings),
        "seconds": 40.25,
    } | changes


def curvature(loss: str, largest: float, error: float | None = None, **changes: Any) -> Entry:
    """Eigenvalues on the test split."""
    entry = flatness("average", loss, 0.0, None, **changes)
    return entry | {
        "kind": "curvature",
        "name": f"curvature-{loss}-test",
        "values": {
            "lambda_max": value(largest, error, 256),
            "lambda_min": value(-1.0, None, 256),
            "convexity": value(1 / largest, None, 256),
        },
    }


def metrics() -> Iterator[Entry]:
    """Two train lines an epoch, a validation line every five; overfits after 30."""
    rng = np.random.default_rng(1)
    for half in range(1, 2 * EPOCHS + 1):
        epoch = half / 2
        noise = 0.02 * rng.standard_normal()
        yield {
            "kind": "train",
            "step": half * STEPS_PER_EPOCH // 2,
            "epoch": epoch,
            "loss": 0.3 + 1.9 * np.exp(-epoch / 20) + noise,
            "error": 0.1 + 0.7 * np.exp(-epoch / 20) + noise / 4,
            "learning_rate": 0.05 * 0.1 ** sum(epoch > drop for drop in (30, 45)),
        }
        if epoch % 5 == 0:
            learned, overfit = np.exp(-epoch / 12), max(0.0, epoch - 30) / 30
            yield {
                "kind": "validation",
                "step": int(epoch * STEPS_PER_EPOCH),
                "epoch": int(epoch),
                "loss": 0.7 + learned,
                "err": 0.2 + 0.5 * learned,
                "rloss": 1.45 + 0.75 * learned + overfit,
                "rerr": 0.52 + 0.3 * learned + 0.1 * overfit,
                "examples": 500,
            }


def snapshots() -> Iterator[Entry]:
    """Flatness every ten epochs, as training measures it."""
    for epoch in range(10, EPOCHS + 1, 10):
        place = {
            "step": epoch * STEPS_PER_EPOCH,
            "epoch": float(epoch),
            "checkpoint": str(epoch * STEPS_PER_EPOCH),
            "snapshot": True,
        }
        overfit = max(0, epoch - 30) / 30
        yield flatness("average", "rloss", 0.3 + 0.9 * overfit, 0.06, **place)
        yield flatness("average", "loss", 0.15 + 0.05 * overfit, 0.02, **place)
        yield flatness("worst", "rloss", 1.2 + 4 * overfit, 0.3, **place)
        yield flatness("worst", "loss", 0.9 + 6 * overfit, 0.4, **place)


class Files:
    """Writes what a run leaves in `workdir`, where the layout wants it."""

    evaluation = staticmethod(evaluation)
    flatness = staticmethod(flatness)
    curvature = staticmethod(curvature)

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir

    def records(self, *entries: Entry) -> None:
        for entry in entries:
            folder = self.workdir / "records" / f"{entry['step']:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            suffix = "-snapshot" if entry.get("snapshot") else ""
            path = folder / f"{entry['name']}{suffix}.json"
            path.write_text(json.dumps(entry))

    def metrics(self, *lines: Entry) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (self.workdir / "metrics.jsonl").write_text(text)

    def config(self, **config: Any) -> None:
        (self.workdir / "config.json").write_text(json.dumps(config))

    def edit(self, name: str, change: Callable[[Entry], Any]) -> None:
        """Changes a record on disk, of which there is one."""
        (path,) = self.workdir.glob(f"records/*/{name}.json")
        entry = json.loads(path.read_text())
        change(entry)
        path.write_text(json.dumps(entry))

    def training(self, name: str = "at") -> Path:
        """Config and metrics of a run that has been trained only."""
        self.config(name=name, model={"width": 16}, training={"epochs": EPOCHS})
        self.metrics(*metrics())
        return self.workdir

    def everything(self, name: str = "at", shape: Shape = (8, 8, 1)) -> Path:
        """A run that has been trained, evaluated and measured."""
        self.training(name)
        self.records(
            evaluation("test", shape, run=name),
            evaluation("train", shape, run=name),
            flatness("average", "loss", 0.2089, 0.0121, run=name),
            flatness("average", "rloss", 1.2204, 0.0352, run=name),
            flatness("worst", "loss", 21.0512, 0.8139, run=name),
            flatness("worst", "rloss", 6.4907, None, run=name),
            *snapshots(),
        )
        return self.workdir


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """An empty working directory and the means to fill it."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    return Files(workdir)


@pytest.fixture
def sweep(tmp_path: Path) -> Any:
    """`sweep(path, name, seed, ...)` makes a run below the folder `sweep.folder`."""
    folder = tmp_path / "runs"

    def run(path, name="at", seed=0, *, rerr=0.5, rloss=2.0, flat=None, trained=60, **config):
        workdir = folder / path
        workdir.mkdir(parents=True)
        made = Files(workdir)
        made.config(name=name, seed=seed, train={"epochs": 60}, **config)
        lines = ((epoch, 100 * epoch, (80 - epoch) / 100) for epoch in (20, 40, 60))
        made.metrics(
            *(
                {"kind": "validation", "step": step, "epoch": epoch, "rerr": error}
                for epoch, step, error in lines
                if epoch <= trained
            )
        )
        if rerr is not None:
            entry = evaluation("test", run=name)
            del entry["adversarial"]
            entry["values"]["rerr"]["value"] = rerr
            entry["values"]["rloss"]["value"] = rloss
            made.records(entry)
        if flat is not None:
            made.records(
                flatness("average", "rloss", flat, 0.1, run=name),
                flatness("worst", "rloss", 100 - flat, 0.1, run=name),
            )
        return made

    run.folder = folder
    return run


@pytest.fixture
def method(sweep: Any) -> Callable[..., Any]:
    """`method(name, flat, rloss, ...)` makes a run of the sweep, see `make_run`."""
    return functools.partial(run_of_method.make_run, sweep)


@pytest.fixture
def all_found(sweep: Any) -> Callable[[], tuple[Finding, ...]]:
    """What the report of the sweep as it is now would find."""

    def found() -> tuple[Finding, ...]:
        asked = rows(read_sweep(sweep.folder))
        courses = sweep_snapshots.read(sweep.folder, asked)
        return findings.findings(asked, methods.paper(), courses)

    return found


@pytest.fixture
def found(all_found: Any) -> Callable[[str], Finding | None]:
    """`found(claim)`: the finding whose claim has these words, None if there is none."""
    return lambda claim: next((of for of in all_found() if claim in of.claim), None)
