"""Flags that several verbs have."""

import argparse


def numbers(text: str) -> list[float]:
    """Of a flag such as ``--rescale 0.5,1,2``."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [-1.0]
    if not all(0 <= number < float("inf") for number in found):
        message = f"must be numbers >= 0 such as 0.5,1,2, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return found


def add_memory(parser: argparse.ArgumentParser) -> None:
    """``--memory``, of verbs that train."""
    parser.add_argument(
        "--memory",
        action="store_true",
        help="say first what the compiled training step needs; config.model.remat,"
        " config.train.micro_batches and smaller batches lower it",
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """``--checkpoint``."""
    parser.add_argument(
        "--checkpoint",
        metavar="WHICH",
        default="final",
        help="final (default); best: lowest robust error on the held-out examples (early"
        " stopping); or a step",
    )


def add_job(parser: argparse.ArgumentParser) -> None:
    """Those of a job of several processes."""
    group = parser.add_argument_group(
        "several processes",
        "One program on many machines: the same command on each. Found by itself in a Slurm step"
        " of several tasks, on TPU pods, in Kubernetes jobs and under mpirun; elsewhere give the"
        " three flags. Process 0 alone reads and writes the workdir.",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 is, a free port")
    group.add_argument("--processes", metavar="N", type=int, help="how many there are")
    group.add_argument("--process", metavar="I", type=int, help="which one this is, from 0")
    group.add_argument(
        "--distributed",
        metavar="WHEN",
        choices=("auto", "on", "off"),
        default="auto",
        help="auto (default): if several processes are found; on: they must be; off: never",
    )


def add_rescale(parser: argparse.ArgumentParser, then: str) -> None:
    """``--rescale``; `then` ends its help."""
    parser.add_argument(
        "--rescale",
        metavar="S,S",
        type=numbers,
        default=[],
        help="all convolutions that a normalisation follows times S, the same function (Fig. F:"
        f" 0.5,1,2){then}",
    )


def add_measuring(parser: argparse.ArgumentParser, *, snapshots: bool = True) -> None:
    """Those of verbs that measure; `snapshots`: also through training."""
    add_checkpoint(parser)
    parser.add_argument("--again", action="store_true", help="measure again what is already there")
    if snapshots:
        add_no_snapshots(parser)


def add_no_snapshots(parser: argparse.ArgumentParser) -> None:
    """``--no-snapshots``, of verbs that also measure through training."""
    parser.add_argument(
        "--no-snapshots", action="store_true", help="leave out the curves through training"
    )
