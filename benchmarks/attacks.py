"""AutoAttack beside the original one: ``python -m benchmarks.attacks --workdir runs/small``.

One trained network, its weights copied into PyTorch, the same examples; each attack alone
(`--alone`) and the whole ensemble, by rfm and by pyautoattack (the authors' code, packaged).
Reports how many examples stand, on how many the two sides differ, which attack of the
ensemble broke which, and the seconds that each took, compilation apart. The sides run one
after the other, in processes of their own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
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
    from rfm.devices import make_mesh
    from rfm.evaluation.compiling import CompileTime
    from rfm.training.build import build
    from rfm.training.checkpoint import Checkpoints
    from rfm.types import bind, leaf_name

    config, workdir = resolve(None, str(options.workdir), [])
    run = build(config)
    every = config.train.snapshot_every * run.steps_per_epoch
    with Checkpoints(workdir / "checkpoints", snapshot_steps=every, read_only=True) as checkpoints:
        state = checkpoints.restore(checkpoints.steps()[-1], run.initial_state())
    state = jax.device_get(state)
    examples = evaluation(run.dataset, "test", options.examples)
    x, y = np.asarray(to_float(examples.images)), examples.labels
    flat = jax.tree_util.tree_flatten_with_path((state.params, state.batch_stats))[0]
    named = {leaf_name(p)[2:]: v for p, v in flat}
    mean, std = run.model.mean, run.model.std
    about = {"stages": run.model.stages, "width": run.model.width, "mean": mean, "std": std}
    np.savez(folder / "problem.npz", x=x, y=y, about=np.array(json.dumps(about)), **named)

    compiling = CompileTime().__enter__()  # to the end of the process
    ball, mesh = threat.linf(options.epsilon), make_mesh(options.batch_size)
    logits_fn = bind(run.apply_fn(state.batch_stats), state.params)
    done: dict[str, Any] = {}
    for name in names(options):
        in_stage = {stage: {"seconds": 0.0, "compiling": 0.0} for stage in ALONE}
        last = [time.perf_counter(), 0.0]

        def lap(progress: Any) -> None:
            now, compiled = time.perf_counter(), compiling.seconds
            of_stage = in_stage[ALONE[progress.stage]]  # noqa: B023
            of_stage["compiling"] += compiled - last[1]  # noqa: B023
            of_stage["seconds"] += now - last[0] - (compiled - last[1])  # noqa: B023
            last[:] = now, compiled  # noqa: B023

        compiling.seconds, start = 0.0, time.perf_counter()
        found = autoattack(
            logits_fn, x, y, jax.random.key(options.seed), threat=ball,
            version=ENSEMBLE if name == ENSEMBLE else (STAGES[name](ball),),
            batch_size=[options.batch_size * eighths // 8 for eighths in range(1, 9)],
            mesh=mesh, on_progress=lap,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        done[name] = {
            "robust": found.robust.tolist(),
            "rloss": float(found.loss.mean()),
            "seconds": seconds - compiling.seconds,
            "compiling": compiling.seconds,
        }
        if name == ENSEMBLE:
            done[name] |= {"broken_by": found.broken_by.tolist(), "stages": in_stage}
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

    def attack(name: str, rows: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The adversarial examples, and the seconds that they took."""
        one = AutoAttack(
            model, eps=options.epsilon, norm="Linf", seed=options.seed, device=options.device,
            version="custom", attacks=[name],
        )  # fmt: skip
        one.apgd.n_restarts = one.fab.n_restarts = 1
        one.fab.n_target_classes = one.apgd_targeted.n_target_classes = 9
        start = time.perf_counter()
        found, _ = one.run_standard_evaluation(x[rows], y[rows], batch_size=options.batch_size)
        return found, time.perf_counter() - start

    @torch.no_grad()
    def judge(found: torch.Tensor) -> tuple[torch.Tensor, float]:
        logits = model(found)
        return logits.argmax(1) == y, torch.nn.functional.cross_entropy(logits, y).item()

    done: dict[str, Any] = {}
    for name in names(options):
        if name != ENSEMBLE:
            found, seconds = attack(name, torch.arange(len(x)))
            robust, rloss = judge(found)
            done[name] = {"robust": robust.tolist(), "rloss": rloss, "seconds": seconds}
        else:  # the four in their order, each on what stands, to see which broke what
            found, stands, stages = x.clone(), judge(x)[0], {}
            broken_by = np.where(stands.cpu(), "", "clean").astype(object)
            for stage in ALONE:
                rows, seconds = torch.nonzero(stands).flatten(), 0.0
                if len(rows):
                    found[rows], seconds = attack(stage, rows)
                stages[stage] = {"seconds": seconds}
                still = judge(found)[0]
                broken_by[(stands & ~still).cpu().numpy()] = stage
                stands = still
            seconds = sum(stage["seconds"] for stage in stages.values())
            robust, rloss = judge(found)
            done[name] = {"robust": robust.tolist(), "rloss": rloss, "seconds": seconds}
            done[name] |= {"broken_by": broken_by.tolist(), "stages": stages}
        print(name, f"{robust.float().mean():.3f} stand, {seconds:.0f} s", flush=True)
    done["versions"] = {"torch": torch.__version__}
    (folder / "torch.json").write_text(json.dumps(done))


def names(options: argparse.Namespace) -> tuple[str, ...]:
    """What is run."""
    return (*ALONE, ENSEMBLE) if options.alone else (ENSEMBLE,)


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each attack and the ensemble."""
    rows = []
    for name in (name for name in (*ALONE, ENSEMBLE) if name in ours):
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
        "stages": [ours[ENSEMBLE]["stages"], theirs[ENSEMBLE]["stages"]],
        "broken_by": [ours[ENSEMBLE]["broken_by"], theirs[ENSEMBLE]["broken_by"]],
        "epsilon": options.epsilon,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "about": about(options.workdir),
        "versions": ours["versions"] | theirs["versions"],
        "environment": report.describe_environment(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    model = json.loads((options.workdir / "config.json").read_text())["model"]
    name = f"{options.device}-{model['name']}-w{model['width']}-{options.examples}"
    path = RESULTS / f"{name}.json"
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
    stages = found["stages"]
    for name in ALONE:
        ours, theirs = (side[name]["seconds"] for side in stages)
        lines.append(
            f"| {name} of the ensemble | | | | {ours:.1f}, {theirs:.1f} | {ours / theirs:.2f} |"
            f" {stages[0][name]['compiling']:.0f} |"
        )
    return "\n".join([*lines, "", *_broken_by(*found["broken_by"]), ""])


def _broken_by(ours: list[str], theirs: list[str]) -> list[str]:
    """Which attack of the ensemble broke how many, a row for rfm's, a column for the peer's."""
    kinds = [kind for kind in ("clean", *ALONE, "") if kind in {*ours, *theirs}]
    pairs = Counter(zip(ours, theirs, strict=True))
    titles = [kind or "none" for kind in kinds]
    lines = [
        "Broken by, rows: rfm, columns: peer (examples):",
        "",
        f"| | {' | '.join(titles)} |",
        "|---|" + "--:|" * len(kinds),
    ]
    for kind, title in zip(kinds, titles, strict=True):
        lines.append(f"| {title} | " + " | ".join(str(pairs[kind, k]) for k in kinds) + " |")
    return lines


def render(readme: Path = report.README, folder: Path = RESULTS) -> None:
    """Rewrites the marked region of the README from the results files."""
    parts = [markdown(json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    report.replace_region(BEGIN, END, parts, readme)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="a finished rfm train; CIFAR-10 or alike")
    add("--epsilon", type=lambda text: float(text) / 255, default=8 / 255, help="of 255 (8)")
    add("--examples", type=int, default=256, help="the first test examples (256)")
    add("--batch-size", type=int, default=128, help="of both sides (128)")
    add("--alone", action="store_true", help="each attack alone, too")
    add("--seed", type=int, default=0, help="of both sides (0)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="of both sides (cpu)")
    add("--side", choices=["rfm", "torch"], help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
