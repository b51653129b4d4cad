"""The flags of ``rfm sweep``."""

import argparse

from rfm.cli.flags import add_no_snapshots

DESCRIPTION = """\
Does `rfm run` for every config, method and seed; config fields can be changed as everywhere,
--config.train.epochs=30, for all runs. Each run has a folder of its own in --workdir.

  rfm sweep --config digits --methods at,awp-0.01,trades-6 --seeds 3 --workdir runs/digits
  rfm sweep --config cifar10 --methods paper --seeds 3 --workdir runs/paper \\
      --executor slurm --slurm-partition gpu --gpus-per-run 1 --hours 24

What is done is not done again: the same command goes on after any stop, and finds its jobs on
Slurm again. Runs that were preempted or lost are started again, runs that failed are listed
with the reason. `rfm report DIR` then draws all of them. Measures through training often take
longer than all else: --no-snapshots for all, then the same command without it for a few methods.

exit status: 0 all runs are done; 1 some failed; 2 a flag or config is wrong; 130 or 143 stopped
by SIGINT or SIGTERM (runs here save their state; jobs of Slurm stay).
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds them."""
    parser.add_argument(
        "--config",
        metavar="CONFIG,CONFIG",
        default="digits",
        help="configs as for rfm run, joined by commas (default: digits)",
    )
    parser.add_argument(
        "--methods",
        metavar="NAME,NAME",
        help="methods of each config, see rfm methods; all: every one; paper: Tables D and E",
    )
    parser.add_argument("--seeds", metavar="N", type=int, default=1, help="0 to N - 1 (default: 1)")
    parser.add_argument(
        "--workdir", metavar="DIR", default="runs/sweep", help="of all (default: runs/sweep)"
    )
    add_no_snapshots(parser)
    parser.add_argument(
        "--executor",
        choices=("local", "slurm"),
        default="local",
        help="processes on this machine (default), or jobs of Slurm",
    )
    parser.add_argument(
        "--parallel",
        metavar="N",
        type=int,
        default=0,
        help="runs at a time (default: 1 here, all on Slurm)",
    )
    parser.add_argument(
        "--retries",
        metavar="N",
        type=int,
        default=3,
        help="how often to start a run again that was lost (default: 3)",
    )
    parser.add_argument(
        "--gpus-per-run",
        metavar="N",
        type=int,
        default=0,
        help="GPUs of each run (default: all here, none on Slurm)",
    )
    parser.add_argument(
        "--cpus-per-run",
        metavar="N",
        type=int,
        default=0,
        help="processors of each run (default: an equal share here, Slurm's default there)",
    )
    parser.add_argument(
        "--hours",
        metavar="H",
        type=float,
        default=24.0,
        help="time limit of a Slurm job, which saves and queues again (default: 24)",
    )
    parser.add_argument("--slurm-partition", metavar="P", help="of the jobs")
    parser.add_argument("--slurm-account", metavar="A", help="of the jobs")
    parser.add_argument(
        "--slurm",
        metavar="KEY=VALUE",
        type=_pair,
        action="append",
        default=[],
        help="another option of sbatch, such as mem=64G; may be given several times",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the runs")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    return key, value
