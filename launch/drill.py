"""A drill: two processes train, one of them is killed at random moments, again and again.

    python launch/drill.py --kills 20

Both are started again each time, as a launcher would. At the end the parameters, the state of
the optimiser and every byte of metrics.jsonl must be those of a run that nobody disturbed, and
no checkpoint that was complete may have been lost on the way. Prints a line for each kill and
exits with 1 if something differs. Some minutes on two cores.
"""

import argparse
import contextlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

SECONDS = 900.0  # for a start, or for the rest of a run
EXAMPLES, BATCH_SIZE = 640, 64
TRAINING = (
    *("--config", "digits:at", "--config.model.width=8", "--config.adversary.steps=2"),
    *(f"--config.data.train_examples={EXAMPLES}", f"--config.train.batch_size={BATCH_SIZE}"),
    *("--config.train.snapshot_every=1", "--config.train.steps_per_dispatch=5"),
    *("--config.validation.examples=40", "--config.validation.restarts=1"),
)


def main() -> int:
    """The drill; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60, help="enough for all kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="to keep both runs (default: temporary)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as running:
        folder = arguments.folder or Path(temporary)
        flags = (*TRAINING, f"--config.train.epochs={arguments.epochs}")
        disturbed, undisturbed = folder / "disturbed", folder / "undisturbed"
        lost = disturb(disturbed, flags, arguments.kills, random.Random(arguments.seed), running)
        finish(start(disturbed, flags, running))
        finish(start(undisturbed, flags, running))
        differs = compare(disturbed, undisturbed)
    for problem in (*lost, *differs):
        print(problem)
    if not lost and not differs:
        print(f"{arguments.kills} kills: same state, same metrics, no checkpoint lost")
    return 1 if lost or differs else 0


def disturb(
    workdir: Path,
    flags: tuple[str, ...],
    kills: int,
    chance: random.Random,
    running: contextlib.ExitStack,
) -> list[str]:
    """Starts and kills; what was lost."""
    lost, before = [], set[int]()
    for number in range(1, kills + 1):
        processes = start(workdir, flags, running)
        wait_for_progress(processes, workdir)
        time.sleep(chance.uniform(1, 8))
        victim = chance.randrange(len(processes))
        processes[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        statuses = [process.wait(SECONDS) for process in processes]
        took = time.monotonic() - killed
        steps = checkpoints(workdir)
        # The two latest are kept for resuming; of the others, snapshots for good.
        gone = {step for step in before if step % snapshot_steps() == 0} - steps
        if gone or (before and max(steps, default=-1) < max(before)):
            lost.append(f"kill {number}: checkpoints {sorted(before - steps)} are lost")
        before = steps
        print(
            f"kill {number}: process {victim}, newest checkpoint {max(steps, default=0)}; statuses"
            f" {statuses}, the other ended after {took:.1f} s; {len(steps)} checkpoints",
            flush=True,
        )
    return lost


def start(
    workdir: Path, flags: tuple[str, ...], running: contextlib.ExitStack
) -> list[subprocess.Popen[bytes]]:
    """Two processes of one job, killed when the stack is left."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"
    log = workdir.with_name(f"{workdir.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "rfm", "train", "--workdir", str(workdir), *flags]
    shape = ["--coordinator", coordinator, "--processes", "2"]
    with log.open("ab") as out:
        started = [
            subprocess.Popen([*command, *shape, f"--process={i}"], stdout=out, stderr=out)
            for i in range(2)
        ]
    for process in started:
        running.callback(process.kill)
    return started


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
    """Waits for the end of an undisturbed job."""
    statuses = [process.wait(SECONDS) for process in processes]
    if statuses != [0, 0]:
        raise SystemExit(f"training ended with {statuses}")


def wait_for_progress(processes: list[subprocess.Popen[bytes]], workdir: Path) -> None:
    """Until a step has been made since this start."""
    metrics, end = workdir / "metrics.jsonl", time.monotonic() + SECONDS
    size = None
    while time.monotonic() < end:
        if any(process.poll() is not None for process in processes):
            raise SystemExit("training has ended: give more --epochs")
        now = metrics.stat().st_size if metrics.exists() else 0
        if size is not None and now > size:
            return
        # On a restart the file is cut back first.
        size = now if size is None else min(size, now)
        time.sleep(0.02)
    raise SystemExit("nothing happens")


def snapshot_steps() -> int:
    """Steps between snapshots."""
    return EXAMPLES // BATCH_SIZE


def checkpoints(workdir: Path) -> set[int]:
    """Steps of the complete ones."""
    folder = workdir / "checkpoints"
    return {int(path.name) for path in folder.glob("*") if path.name.isdecimal()}


def compare(disturbed: Path, undisturbed: Path) -> list[str]:
    """What differs between two finished runs."""
    different = []
    a, b = ((run / "metrics.jsonl").read_bytes() for run in (disturbed, undisturbed))
    if a != b:
        different.append("metrics.jsonl differs")
    steps = [max(checkpoints(run)) for run in (disturbed, undisturbed)]
    if steps[0] != steps[1]:
        return [*different, f"the last checkpoints are of steps {steps}"]
    found, expected = (_arrays(run, steps[0]) for run in (disturbed, undisturbed))
    if found.keys() != expected.keys() or len(found) < 10:
        return [*different, "the checkpoints hold other arrays"]
    names = [name for name in found if found[name].tobytes() != expected[name].tobytes()]
    return [*different, *(f"{name} differs" for name in names)]


def _arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    reader = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    tree = reader.restore(workdir.absolute() / "checkpoints" / str(step) / "state")

    def flat(value: object, name: str) -> dict[str, np.ndarray]:
        if isinstance(value, dict):
            children = value.items()
        elif isinstance(value, list | tuple):
            children = enumerate(value)
        else:
            return {} if value is None else {name: np.asarray(value)}
        return {k: v for key, child in children for k, v in flat(child, f"{name}/{key}").items()}

    return flat(tree, "")


if __name__ == "__main__":
    sys.exit(main())
