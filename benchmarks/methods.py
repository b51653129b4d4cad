"""Methods that differ in kind, trained for some minutes each: ``python -m benchmarks.methods``.

Trains and evaluates each method on the first 5,000 images of CIFAR-10 (`cifar10_small`, fewer
epochs) and writes the table of docs/methods.md. Stopped, it goes on where it was. What must
change relative to the baseline is looked at, too: that each method beats chance, that clipped
weights are within bounds, that averaged weights differ from the last ones.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.harness import ROOT

RFM = str(Path(sys.executable).with_name("rfm"))
PAGE = ROOT / "docs" / "methods.md"
BEGIN, END = "<!-- table: written by benchmarks.methods -->", "<!-- end of table -->"
METHODS = (
    *("at", "plain", "trades-1", "trades-9", "mart-6", "awp-0.01", "entropy-sgd-2", "adam"),
    *("label-noise-0.3", "pgd-7-1", "weight-averaging-0.98", "weight-clipping-0.025"),
    *("self-supervision-1", "autoaugment", "unlabeled"),
)
SETTINGS = {
    "train.epochs": 6,
    "optimiser.milestones": "(4,5)",
    "train.snapshot_every": 6,
    "validation.restarts": 1,
    "evaluation.restarts": 2,
}


def run(method: str, folder: Path, options: argparse.Namespace) -> None:
    """Trains and evaluates one method, or goes on with it."""
    workdir = folder / method
    settings = dict(SETTINGS, **{"data.dir": options.data_dir} if options.data_dir else {})
    if method == "unlabeled":
        settings["data.extra"] = str(_pseudo_labelled(folder, options))
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    where = ["--config", f"cifar10_small:{method}", "--workdir", str(workdir), *flags]
    for verb in ("train", "evaluate"):
        subprocess.run([RFM, verb, *where], check=True)


def _pseudo_labelled(folder: Path, options: argparse.Namespace) -> Path:
    """5,000 further training images, labelled by the network of plain training."""
    images, model, labelled = (folder / f"{n}.npz" for n in ("images", "plain", "pseudo"))
    if not labelled.exists():
        from rfm import data

        found = data.load("tfds:cifar10", data_dir=options.data_dir, train_examples=10_000)
        np.savez(images, images=found.train_images[5_000:])
        export = [RFM, "export", "--workdir", folder / "plain", "--out", model]
        label = [RFM, "data", "pseudo-label", images, "--exported", model, "--out", labelled]
        for command in (export, label):
            subprocess.run(list(map(str, command)), check=True)
    return labelled


def result(method: str, folder: Path) -> dict[str, Any]:
    """What is on disk of a method: the numbers of the table, and facts about its weights."""
    workdir = folder / method
    found: dict[str, Any] = {"method": method}
    for split in ("test", "train"):
        (path,) = workdir.glob(f"records/*/evaluation-{split}.json")
        values = json.loads(path.read_text())["values"]
        found[split] = {name: values[name] for name in ("err", "rerr", "rloss")}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found["train_loss"] = [line["loss"] for line in lines if line["kind"] == "train"][-1]
    found["facts"] = _facts(workdir)
    return found


def _facts(workdir: Path) -> dict[str, float]:
    """Of the last checkpoint: the largest weight, and how far the average is from it."""
    import jax

    from rfm.cli import config as configs
    from rfm.training.build import build
    from rfm.training.checkpoint import Checkpoints

    config, _ = configs.resolve(None, str(workdir), [])
    run = build(config)
    with Checkpoints(workdir / "checkpoints", snapshot_steps=1, read_only=True) as checkpoints:
        state = checkpoints.restore(checkpoints.steps()[-1], run.initial_state())
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(state.params))
    apart = jax.tree.map(lambda a, b: float(abs(a - b).max()), state.params, state.evaluated.params)
    return {"largest_weight": largest, "average_apart": max(jax.tree.leaves(apart))}


def check(results: dict[str, dict[str, Any]]) -> list[str]:
    """What must hold relative to the baseline, and does not."""
    wrong = []
    for method, found in results.items():
        if method != "plain" and found["test"]["rerr"]["value"] >= 0.9:
            wrong.append(f"{method} does not beat chance in robust error")
        averaged, facts = "averaging" in method, found["facts"]
        if averaged != (facts["average_apart"] > 0):
            wrong.append(f"{method}: the averaged weights are {facts['average_apart']} apart")
        if "clipping" in method:
            limit = float(method.rsplit("-", 1)[1])
            if facts["largest_weight"] > limit * (1 + 1e-6):
                wrong.append(f"{method}: a weight of {facts['largest_weight']}")
    return wrong


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The table."""
    rows = [
        "| method | Err | RErr | RLoss | Err, train | RErr, train | RLoss, train |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for method, found in results.items():
        cells = []
        for split in ("test", "train"):
            values = found[split]
            cells += [_cell(values[name], 100, 1) for name in ("err", "rerr")]
            cells.append(_cell(values["rloss"], 1, 2))
        rows.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join([*rows, ""])


def _cell(value: dict[str, Any], unit: float, digits: int) -> str:
    return f"{unit * value['value']:.{digits}f} ± {unit * value['standard_error']:.{digits}f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/methods"), help="of the runs")
    parser.add_argument("--data-dir", default="", help="folder of TFDS")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="(those of the table)")
    options = parser.parse_args()
    results = {}
    for method in options.methods:
        run(method, options.folder, options)
        results[method] = result(method, options.folder)
        report.replace_region(BEGIN, END, [markdown(results)], PAGE)
    wrong = check(results)
    print("\n".join(wrong) or "all as it must be")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
