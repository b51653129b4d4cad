"""The flags, and help that reads like documentation."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from rfm.cli import flags, model_flags
from rfm.cli.sweep import flags as sweep_flags
from rfm.errors import UserError, did_you_mean
from rfm.version import __version__

_DESCRIPTION = """\
Robust Flat Minima: train adversarially robust classifiers, evaluate them, and measure
how flat their robust loss is around the weights.

  rfm run                                        everything, on the embedded digits
  rfm run --config cifar10_small:at              some minutes on two cores, real CIFAR-10
  rfm run --config configs/cifar10.py:at --workdir runs/at --config.model.width=16

The stages can be run alone (train, evaluate, attack, flatness, curvature, landscape, report);
each picks up what is already in the workdir, so any of them can be stopped and started again.
What rfm export writes can be measured anywhere: rfm evaluate --exported FILE. Published networks
are measured by their weights: rfm run --model zoo:Carmon2019Unlabeled --weights FILE.
"""

_CONFIG = """\
config:
  --config FILE[:METHOD] is a Python file with get_config(METHOD), or the name of one
  that ships with rfm: digits, cifar10, cifar10_small, cifar10_study. Without it, the
  config stored in the workdir is used, and without that, digits (cifar10 for
  --model zoo:NAME). Any field can be changed:
  --config.optimiser.learning_rate=0.1 --config.train.epochs=30

exit status:
  0 done; 1 training failed; 2 a flag, file or config is wrong (one line says which);
  75 another process of the job was lost, start all again with the same command;
  130 or 143 stopped by SIGINT or SIGTERM (state saved: the same command goes on)
"""


WITHOUT_CONFIG = ("data", "compare", "methods", "sweep", "zoo")
"""Verbs that take neither a config nor a workdir."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of the usage and a line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags of a verb, and as `overrides` those of the config's fields.

    Raises:
      UserError: a verb or a flag is wrong; suggests what may have been meant.
    """
    parser, verbs = _make_parsers()
    verb = next((word for word in arguments if not word.startswith("-")), None)
    if verb is not None and verb not in verbs:
        raise UserError(f"no verb {verb!r}{did_you_mean(verb, verbs)}; see rfm --help")
    known, rest = parser.parse_known_args(arguments)
    names = re.findall(r"--[\w-]+", verbs[known.verb].format_usage())
    known.overrides = _split_overrides(rest, names)
    for flag in ("config", "workdir", "data_dir", "model", "weights", "exported", "saved", "out"):
        if getattr(known, flag, None) == "":
            raise UserError(f"--{flag.replace('_', '-')} is empty; leave it out or give a value")
    if getattr(known, "folder", None) is not None:
        if known.workdir is not None:
            raise UserError("DIR and --workdir are the same: give one of them")
        if not known.folder:
            raise UserError("DIR is empty; leave it out or give a folder")
        known.workdir = known.folder
    if known.verb in WITHOUT_CONFIG and known.verb != "sweep" and known.overrides:
        raise UserError(f"unknown flag {known.overrides[0]!r}; rfm {known.verb} takes no config")
    return known


def _make_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the whole command line, and those of the verbs.

    Overrides of config fields are left over.
    """
    parser = _Parser(
        prog="rfm",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rfm {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, summary: str, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            name,
            help=summary,
            description=text,
            epilog=_CONFIG if name != "data" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name != "data":
            added.add_argument("--config", metavar="FILE[:METHOD]", help="what to run, see below")
            added.add_argument(
                "--workdir", metavar="DIR", help="folder of the run (default: runs/CONFIG-METHOD)"
            )
            if name not in ("export", "report"):
                flags.add_job(added)
        return added

    run = verb(
        "run",
        "train, evaluate, measure flatness and report",
        "Trains, evaluates, measures flatness and writes the report, in this order. Stages\n"
        "that are already done are not done again. Prints the table of results and the\n"
        "path of report.html. With --weights or --exported nothing is trained: the model is\n"
        "evaluated and measured as it is.",
    )
    flags.add_measuring(run)
    model_flags.add(run)
    flags.add_memory(run)
    train = verb(
        "train",
        "train, or go on training",
        "Trains to the last epoch, from the newest checkpoint if there is one. Checkpoints\n"
        "are written while training goes on; SIGTERM saves one and exits with status 143.\n"
        "Metrics go to metrics.jsonl and tensorboard/ in the workdir.",
    )
    flags.add_memory(train)
    evaluate = verb(
        "evaluate",
        "Err, RErr, Loss and RLoss of a checkpoint",
        "Clean and robust error and loss on the first test and training examples, by PGD\n"
        "with restarts, the worst case per example, and RErr by AutoAttack if the config says\n"
        "so (config.evaluation.autoattack). Writes records/STEP/evaluation-*.json.",
    )
    flags.add_measuring(evaluate, snapshots=False)
    model_flags.add(evaluate)
    flatness = verb(
        "flatness",
        "average- and worst-case flatness of a checkpoint",
        "How much Loss and RLoss rise around the weights: on average over random weight\n"
        "perturbations (Eq. (3) of the paper's supplement) and at worst (Eq. (5)); then\n"
        "smaller measures of all snapshots, for the curves through training. Evaluates\n"
        "first if need be. Writes records/STEP/flatness-*.json.",
    )
    flags.add_measuring(flatness)
    model_flags.add(flatness)
    flatness.add_argument(
        "--average-radii",
        metavar="XI,XI",
        type=flags.numbers,
        default=[],
        help="average case also at these radii (Fig. E: 0.25,0.5,0.75,1; 0 shows the attack's"
        " own part), of the snapshots, too (Fig. C)",
    )
    flatness.add_argument(
        "--worst-radii",
        metavar="XI,XI",
        type=flags.numbers,
        default=[],
        help="worst case also at these (0.00075,0.001,0.005)",
    )
    flags.add_rescale(flatness, "; prints that table")
    curvature = verb(
        "curvature",
        "eigenvalues of the Hessian of the loss",
        "lambda_max, lambda_min and |lambda_min|/|lambda_max| of Loss on test examples (Table A\n"
        "of the paper's supplement), by Lanczos' method; see config.curvature for the choices.\n"
        "Writes records/STEP/curvature-*.json.",
    )
    curvature.add_argument(
        "--rloss", action="store_true", help="of RLoss, too, at fixed adversarial examples"
    )
    curvature.add_argument("--density", action="store_true", help="the spectral density, too")
    flags.add_measuring(curvature, snapshots=False)
    model_flags.add(curvature)
    landscape = verb(
        "landscape",
        "draws RLoss and Loss along directions in weight space",
        "Random directions (the mean of ten), adversarial ones (the maximum) and the Hessian's\n"
        "first eigenvector, as in Section C of the paper's supplement. Writes\n"
        "records/STEP/landscape-*.json and landscape.png and .svg.",
    )
    landscape.add_argument(
        "--kinds",
        metavar="KIND,KIND",
        default="random,adversarial,hessian",
        help="of random, adversarial, hessian and surface (default: the first three)",
    )
    landscape.add_argument(
        "--losses", metavar="LOSS,LOSS", default="rloss,loss", help="(default: rloss,loss)"
    )
    landscape.add_argument(
        "--beside", metavar="DIR,DIR", help="draw the landscapes of other workdirs, too"
    )
    flags.add_rescale(landscape, "; beside the network as it is")
    flags.add_measuring(landscape, snapshots=False)
    model_flags.add(landscape)
    compared = verbs.add_parser(
        "compare",
        help="two runs: is one flatter, is one more robust",
        description="Paired differences of all measures that two workdirs have in common, the\n"
        "first minus the second, with bootstrap intervals over examples and weight draws.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    compared.add_argument("first", metavar="DIR")
    compared.add_argument("second", metavar="DIR")
    compared.add_argument("--level", type=float, default=0.95, help="of the intervals (0.95)")
    sweep_flags.add(
        verbs.add_parser(
            "sweep",
            help="many runs: configs x methods x seeds, here or on Slurm",
            description=sweep_flags.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
    )
    methods = verbs.add_parser(
        "methods",
        help="what --config NAME:METHOD knows",
        description="Lists the methods: every row of Tables D and E of the paper's supplement,\n"
        "and some more, with what the paper got. Names joined by + are done together:\n"
        "--config cifar10:awp-0.01+label-noise-0.3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    methods.add_argument("--csv", action="store_true", help="as CSV, with all columns")
    zoo = verbs.add_parser(
        "zoo",
        help="published networks that --model zoo:NAME knows",
        description="Lists published robust networks for CIFAR-10: the eight of Tables B and C of\n"
        "the paper's supplement with its numbers, and some later ones; and where their weights\n"
        "are. They are measured by\n\n"
        "  rfm run --model zoo:Carmon2019Unlabeled --weights Carmon2019Unlabeled.pt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    zoo.add_argument("--csv", action="store_true", help="as CSV, with all columns")
    attacked = verb(
        "attack",
        "RErr by AutoAttack, or by one of its attacks",
        "Attacks the examples of the evaluation by an ensemble, each attack only what still\n"
        "stands: autoattack (APGD-CE, APGD-T, FAB-T, Square), autoattack-plus, one of apgd-ce,\n"
        "apgd-dlr, apgd-t, fab, fab-t, square, or pgd. Stopped, it goes on at the attack and\n"
        "batch where it was. Writes records/STEP/attack-*.json, and the adversarial examples\n"
        "beside it, attack-*.npz, which --saved tries on another model.",
    )
    attacked.add_argument("--attack", metavar="NAME", help="which (default: autoattack)")
    attacked.add_argument(
        "--saved",
        metavar="FILE",
        help="attack by the adversarial examples in an .npz instead (arrays n, h, w, c of the"
        " first n examples)",
    )
    attacked.add_argument(
        "--split",
        metavar="SPLIT",
        choices=("test", "train"),
        default="test",
        help="test (default) or train",
    )
    flags.add_measuring(attacked, snapshots=False)
    model_flags.add(attacked)
    export = verb(
        "export",
        "a checkpoint as a file that runs without its code",
        "As jax: one .npz, the weights and the serialised JAX program (CPU, CUDA and TPU), for\n"
        "--exported. As safetensors: the weights under the names they have here; as torch: under\n"
        "those of the published PyTorch networks, for load_state_dict. Beside both is a JSON that\n"
        "says what network it is, and --weights measures them.",
    )
    export.add_argument(
        "--format",
        metavar="FORMAT",
        choices=("jax", "safetensors", "torch"),
        default="jax",
        help="jax (default), safetensors or torch",
    )
    export.add_argument(
        "--out", metavar="FILE", help="where to (default: in WORKDIR/exported, by name and step)"
    )
    flags.add_checkpoint(export)
    model_flags.add_weights(export)
    report = verb(
        "report",
        "report.html of a run, or of all runs below a folder",
        "Draws report.html, its figures (PNG and SVG) and the table (CSV and Markdown) from\n"
        "metrics and records. Needs no model and no device. Of a folder of runs, at any depth,\n"
        "it is one report of all: means over seeds, RLoss against flatness, training curves, and\n"
        "Tables B to E of the supplement, ours beside the paper's (CSV, Markdown, LaTeX).",
    )
    report.add_argument(
        "folder", metavar="DIR", nargs="?", help="a run or a folder of runs; the same as --workdir"
    )
    data = verb(
        "data",
        "prepare, look at or label a data set",
        "prepare NAME: downloads a TFDS data set and stores it so that it can be read without\n"
        "TensorFlow; this step needs it: pip install 'robust-flat-minima[prepare]'.\n"
        "show SOURCE: loads a data set and prints its sizes: digits, tfds:NAME or an .npz with\n"
        "x_train, y_train, x_test and y_test.\n"
        "pseudo-label FILE --exported MODEL --out NEW: labels the images of an .npz (images,\n"
        "uint8, n h w c) by a model that rfm export wrote, for --config.data.extra=NEW.\n"
        "convert SOURCE --out FOLDER: writes a data set as .npy files, which can be larger than\n"
        "memory: --config.data.source=FOLDER --config.data.stream=16.",
    )
    data.add_argument("action", choices=("prepare", "show", "pseudo-label", "convert"))
    data.add_argument("name", metavar="NAME", help="e.g. cifar10, tfds:cifar10, digits, my.npz")
    data.add_argument("--exported", metavar="FILE", help="pseudo-label: the model")
    data.add_argument("--out", metavar="FILE", help="where to: an .npz, or the folder")
    data.add_argument("--data-dir", metavar="DIR", help="folder of TFDS (default: TFDS's own)")
    return parser, dict(verbs.choices)


def _split_overrides(rest: Sequence[str], names: Sequence[str]) -> list[str]:
    """The leftover arguments, all of them overrides ``--config.FIELD=VALUE``."""
    overrides: list[str] = []
    for argument in rest:
        awaits_value = bool(overrides) and "=" not in overrides[-1]
        if awaits_value and not argument.startswith("--"):
            overrides[-1] += f"={argument}"
        elif argument.startswith("--config."):
            overrides.append(argument)
        elif argument.startswith("-"):
            flag = argument.partition("=")[0]
            raise UserError(f"unknown flag {flag}{did_you_mean(flag, names)}; see rfm VERB --help")
        else:
            raise UserError(f"unexpected argument {argument!r}; see rfm VERB --help")
    missing = [o for o in overrides if "=" not in o]
    if missing:
        raise UserError(f"{missing[0]} needs a value: {missing[0]}=VALUE")
    return overrides
