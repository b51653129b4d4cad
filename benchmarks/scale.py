"""How fast training is, and how it scales: ``python -m benchmarks.scale``.

Measures, in this order and each in processes of its own: adversarial training alone
(`throughput`), beside eager and compiled PyTorch (`torch`), against the peak of the device
(`mfu`), its compilation without and with the persistent cache (`compile`), what the loop adds
(`outside`), what a row of the paper's table takes (`row`, extrapolated), and several devices and
processes (`scaling`, simulated where there are no several accelerators). What is measured is
chosen by the platform. Every piece is written at once; what the time does not suffice for is left
as it was in the record, or called unmeasured.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report, scale_table
from benchmarks.harness import ROOT, busy
from benchmarks.scale_plan import PARTS, Piece, pieces
from benchmarks.scale_table import TRAINING_SET

RESULTS = report.RESULTS / "scale"
BEGIN, END = "<!-- scale: written by benchmarks.scale -->", "<!-- end of scale -->"


def measure(piece: Piece, folder: Path, deadline: float) -> Any:
    """What the processes of a piece find; those that are not done by the deadline are ended.

    Raises:
      RuntimeError: one of them failed or was ended; says why.
    """
    port = _free_port()
    environment = {"XDG_CACHE_HOME": "cache", **piece.environment}
    environment["XDG_CACHE_HOME"] = str(folder / environment["XDG_CACHE_HOME"])
    answer, running = folder / "answer.json", []
    answer.unlink(missing_ok=True)
    try:
        for number in range(piece.processes):
            settings, chips = dict(piece.settings), {}
            if piece.processes > 1:
                address = f"127.0.0.1:{port}"
                settings["job"] = {
                    "coordinator_address": address,
                    "num_processes": piece.processes,
                    "process_id": number,
                }
                chips = {"CUDA_VISIBLE_DEVICES": str(number)}
            out = answer if number == 0 else folder / "other.json"
            words = ["-m", "benchmarks.scale_parts", piece.function, json.dumps(settings), str(out)]
            with (folder / f"log{number}").open("w") as log:
                running.append(
                    subprocess.Popen(
                        [sys.executable, *words],
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        cwd=ROOT,
                        env={**os.environ, **environment, **chips},
                    )
                )
        for number, process in enumerate(running):
            try:
                status = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise RuntimeError("the time was up") from None
            if status:
                told = (folder / f"log{number}").read_text(errors="replace").strip().splitlines()
                raise RuntimeError(f"ended with status {status}: {(told or ['?'])[-1][:300]}")
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    return json.loads(answer.read_text())


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def keep(row: dict[str, Any], path: Path) -> dict[str, Any]:
    """Puts a row into the record; what was not measured replaces nothing that was."""
    record = json.loads(path.read_text()) if path.exists() else {"machine": path.stem, "rows": []}
    same = [r for r in record["rows"] if (r["part"], r["name"]) == (row["part"], row["name"])]
    if not (same and "found" in same[0] and "found" not in row):
        kept = [other for other in record["rows"] if other not in same]
        record["rows"] = [*kept, row]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
    return record


def main() -> int:
    options = _parser().parse_args()
    if options.render:
        return _render()
    deadline = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = str(Path(options.data).resolve()) if options.data else _noise(folder / "noise.npz")
        asked = Piece("", "", "benchmarks.scale_parts:about", {"peer_python": options.peer_python})
        about = measure(asked, folder, deadline)
        environment, on_cpu = report.describe_environment(), about["platform"] == "cpu"
        device = environment["cpu"] if on_cpu else about["device"]
        slug = report.slug(device, environment["cores"] if on_cpu else None)
        path = Path(options.results) / f"{slug}.json"
        for piece in pieces(about, options, data):
            if piece.part not in options.only:
                continue
            row = {"part": piece.part, "name": piece.name, "about": about}
            row |= {"environment": environment, "variables": dict(piece.environment)}
            row |= {"settings": {**piece.settings, **piece.extra}, "busy_before": busy()}
            start = time.monotonic()
            try:
                if piece.missing:
                    raise RuntimeError(piece.missing)
                if start >= deadline:
                    raise RuntimeError(f"skipped, {options.minutes:g} minutes were over")
                row["found"] = measure(piece, folder, deadline)
            except RuntimeError as error:
                row["unmeasured"] = str(error)
            row["wall_seconds"] = time.monotonic() - start
            record = keep(row, path)
            told = row.get("unmeasured") or f"{row['wall_seconds']:.0f} s"
            print(f"{piece.part}: {piece.name}: {told}", flush=True)
    print(scale_table.markdown(record))
    return _render() if Path(options.results) == RESULTS else 0


def _noise(path: Path) -> str:
    """Images and labels of CIFAR-10's shapes and numbers."""
    random, arrays = np.random.default_rng(0), {}
    for split, count in (("train", TRAINING_SET), ("test", 10_000)):
        arrays[f"x_{split}"] = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(path, **arrays)
    return str(path)


def _render() -> int:
    """Rewrites the marked region of the README from the results files."""
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    report.replace_region(BEGIN, END, [scale_table.markdown(record) for record in records])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    add = parser.add_argument

    def parts(text: str) -> list[str]:
        named = text.split(",")
        if wrong := set(named) - set(PARTS):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(wrong))}; known: {PARTS}")
        return named

    add("--only", type=parts, default=PARTS, help=f"parts, with commas ({','.join(PARTS)})")
    add("--minutes", type=float, default=10, help="no longer than that (10)")
    add("--repeats", type=int, default=3, help="timed calls (3)")
    add("--network", default="resnet18", help="(resnet18)")
    add("--width", type=int, default=0, help="of the network (64 on a GPU, else 16)")
    add("--batch", type=int, default=0, help="on a CPU (128)")
    add("--scaling-batch", type=int, default=128, help="strong scaling's; weak: a quarter a device")
    add("--scaling-width", type=int, default=16, help="of the resnet8 on simulated devices (16)")
    add("--most", type=int, default=8, help="simulated devices (8)")
    add("--autoattack", action="store_true", help="time it on a CPU, too")
    add("--quick", action="store_true", help="on a CPU: 512 images in the loop, to try this out")
    add("--data", default="", help="an .npz as rfm reads it; default: noise")
    add("--peer-python", default=sys.executable, help="interpreter that has torch (this one)")
    add("--results", default=str(RESULTS), help="folder of the record; elsewhere: no README")
    add("--render", action="store_true", help="only rewrite the README's tables")
    return parser


if __name__ == "__main__":
    sys.exit(main())
