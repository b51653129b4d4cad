"""AutoAttack beside the original one: ``python -m benchmarks.attacks --workdir runs/small``.

One trained network, its weights copied into PyTorch, the same examples; each attack alone
and the whole ensemble, by rfm and by pyautoattack (the authors' code, packaged). Reports
how many examples stand, on how many the two sides differ, and the seconds that each took,
compilation apart. The sides run one after the other, in processes of their own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.harness import cores

ALONE = ("apgd-ce", "apgd-t", "fab-t", "square")
ENSEMBLE = "standard"
RESULTS = report.RESULTS / "attacks"
BEGIN, END = "<!-- attacks: written by benchmarks.attacks -->", "<!-- end of attacks -->"


def rfm_side(options: argparse.Namespace, folder: Path) -> None:
    """Attacks by rfm; writes what stands, the seconds, and the weights for the other side."""
    import jax

    from rfm import threat
    from rfm.attacks import autoattack
    from rfm.attacks.ensembles import STAGES
    from rfm.cli.config import resolve
    from rfm.data.augment import to_float
    from rfm.data.splits import evaluation
    from rfm.devices import make_mesh, shard
    from rfm.training.build import build
    from rfm.training.checkpoint import Checkpoints
    from rfm.types import bind

    config, workdir = resolve(None, str(options.workdir), [])
    run = build(config)
    every = config.train.snapshot_every * run.steps_per_epoch
    with Checkpoints(workdir / "checkpoints", snapshot_steps=every, read_only=True) as checkpoints:
        state = checkpoints.restore(checkpoints.steps()[-1], run.initial_state())
    state = jax.device_get(state)
    examples = evaluation(run.dataset, "test", options.examples)
    x, y = np.asarray(to_float(examples.images)), examples.labels
    flat = jax.tree_util.tree_flatten_with_path((state.params, state.batch_stats))[0]
    named = {jax.tree_util.keystr(p, simple=True, separator="/")[2:]: v for p, v in flat}
    mean, std = run.model.mean, run.model.std
    about = {"stages": run.model.stages, "width": run.model.width, "mean": mean, "std": std}
    np.savez(folder / "problem.npz", x=x, y=y, about=np.array(json.dumps(about)), **named)

    compiling = [0.0]

    def listen(event: str, seconds: float, **_: Any) -> None:
        compiling[0] += seconds if "compile" in event and "duration" in event else 0.0

    jax.monitoring.register_event_duration_secs_listener(listen)
    ball, mesh = threat.linf(options.epsilon), make_mesh(options.batch_size)
    logits_fn = bind(run.apply_fn(state.batch_stats), state.params)
    done: dict[str, Any] = {}
    for name in (*ALONE, ENSEMBLE):
        compiling[0], start = 0.0, time.perf_counter()
        found = autoattack(
            logits_fn, x, y, jax.random.key(options.seed), threat=ball,
            version=ENSEMBLE if name == ENSEMBLE else (STAGES[name](ball),),
            batch_size=options.batch_size, place=lambda batch: shard(batch, mesh),
        )  # fmt: skip
        seconds = time.perf_counter() - start
        done[name] = {
            "robust": found.robust.tolist(),
            "rloss": float(found.loss.mean()),
            "seconds": seconds - compiling[0],
            "compiling": compiling[0],
        }
        if name == ENSEMBLE:
            done[name]["broken_by"] = found.broken_by.tolist()
        print(name, f"{found.robust.mean():.3f} stand, {seconds:.0f} s", flush=True)
    done["versions"] = {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    (folder / "rfm.json").write_text(json.dumps(done))


def torch_side(options: argparse.Namespace, folder: Path) -> None:
    """Attacks by pyautoattack on the same network in PyTorch."""
    import torch
    from pyautoattack import AutoAttack

    from benchmarks.torch_resnet import load_trained

    torch.set_num_threads(cores())
    with np.load(folder / "problem.npz", allow_pickle=False) as problem:
        about = json.loads(str(problem["about"]))
        arrays = {k: problem[k] for k in problem.files if k not in ("x", "y", "about")}
        x = torch.from_numpy(problem["x"].transpose(0, 3, 1, 2).copy()).to(options.device)
        y = torch.from_numpy(problem["y"].astype(np.int64)).to(options.device)
    model = load_trained(about, arrays).eval().to(options.device)
    model = model.to(memory_format=torch.channels_last)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    done: dict[str, Any] = {}
    for name in (*ALONE, ENSEMBLE):
        chosen = {} if name == ENSEMBLE else {"version": "custom", "attacks": [name]}
        attack = AutoAttack(
            model, eps=options.epsilon, norm="Linf", seed=options.seed, device=options.device,
            **chosen,
        )  # fmt: skip
        attack.apgd.n_restarts = attack.fab.n_restarts = 1
        attack.fab.n_target_classes = attack.apgd_targeted.n_target_classes = 9
        start = time.perf_counter()
        found, _ = attack.run_standard_evaluation(x, y, batch_size=options.batch_size)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            logits = model(found)
        robust = (logits.argmax(1) == y).cpu().numpy()
        rloss = torch.nn.functional.cross_entropy(logits, y).item()
        done[name] = {"robust": robust.tolist(), "rloss": rloss, "seconds": seconds}
        print(name, f"{robust.mean():.3f} stand, {seconds:.0f} s", flush=True)
    done["versions"] = {"torch": torch.__version__}
    (folder / "torch.json").write_text(json.dumps(done))


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per attack."""
    rows = []
    for name in (*ALONE, ENSEMBLE):
        one, other = np.array(ours[name]["robust"]), np.array(theirs[name]["robust"])
        rows.append(
            {
                "attack": name,
                "examples": len(one),
                "stand": [float(one.mean()), float(other.mean())],
                "only_one_side_broke": int((one != other).sum()),
                "rloss": [ours[name]["rloss"], theirs[name]["rloss"]],
                "seconds": [ours[name]["seconds"], theirs[name]["seconds"]],
                "compiling": ours[name]["compiling"],
                "ratio": ours[name]["seconds"] / theirs[name]["seconds"],
            }
        )
    return rows


def main() -> int:
    options = _parser().parse_args()
    if options.side:
        side = {"rfm": rfm_side, "torch": torch_side}[options.side]
        side(options, options.folder)
        return 0
    environment = dict(os.environ, OMP_NUM_THREADS=str(cores()))
    if options.device == "cpu":
        flags = f"--xla_force_host_platform_device_count={cores()}"
        environment["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
        environment["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        for side in ("rfm", "torch"):
            again = [sys.executable, "-m", "benchmarks.attacks", *sys.argv[1:]]
            again += ["--side", side, "--folder", folder]
            subprocess.run(again, env=environment, check=True)
        ours, theirs = (
            json.loads((Path(folder) / f"{side}.json").read_text()) for side in ("rfm", "torch")
        )
    found = {
        "rows": compare(ours, theirs),
        "broken_by": ours[ENSEMBLE]["broken_by"],
        "epsilon": options.epsilon,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "about": about(options.workdir),
        "versions": ours["versions"] | theirs["versions"],
        "environment": report.describe_environment(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{options.device}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    render()
    print(markdown(found))
    print(f"written to {path}")
    return 0


def about(workdir: Path) -> str:
    """The network, in words."""
    config = json.loads((workdir / "config.json").read_text())
    model, name = config["model"], config["name"]
    return f"{model['name']} of width {model['width']}, trained by {name}"


def markdown(found: dict[str, Any]) -> str:
    """The table of one comparison."""
    environment = found["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"{found['about']}; L-infinity, epsilon {255 * found['epsilon']:g}/255; the first"
        f" {found['rows'][0]['examples']} test examples, batches of {found['batch_size']}, seed"
        f" {found['seed']}. {environment['cpu']}, {environment['cores']} cores; {versions};"
        f" revision {environment['git']}.",
        "",
        "| attack | stand (%): rfm, peer | only one side broke | RLoss | seconds | ratio |"
        " compiling (s) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        pairs = (
            ", ".join(f"{100 * v:.1f}" for v in row["stand"]),
            str(row["only_one_side_broke"]),
            ", ".join(f"{v:.3f}" for v in row["rloss"]),
            ", ".join(f"{v:.1f}" for v in row["seconds"]),
            f"{row['ratio']:.2f}",
            f"{row['compiling']:.0f}",
        )
        lines.append(f"| {row['attack']} | " + " | ".join(pairs) + " |")
    names, counts = np.unique([n for n in found["broken_by"] if n], return_counts=True)
    broken = ", ".join(f"{n} by {name}" for name, n in zip(names, counts, strict=True))
    return "\n".join([*lines, "", f"Broken by rfm's ensemble: {broken}.", ""])


def render(readme: Path = report.HERE / "README.md", folder: Path = RESULTS) -> None:
    """Rewrites the marked region of the README from the results files."""
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    parts = [markdown(json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    readme.write_text("\n".join([before + BEGIN, "", *parts, END + after]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="a finished rfm train; CIFAR-10 or alike")
    add("--epsilon", type=lambda text: float(text) / 255, default=8 / 255, help="of 255 (8)")
    add("--examples", type=int, default=256, help="the first test examples (256)")
    add("--batch-size", type=int, default=128, help="of both sides (128)")
    add("--seed", type=int, default=0, help="of both sides (0)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="of both sides (cpu)")
    add("--side", choices=["rfm", "torch"], help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
