"""The command line: one verb per job.

Everything that is global is arranged here, before JAX starts: one device per core on
CPU, deterministic operations on GPU, a persistent compilation cache, and the processes of
one job. A library import does none of it.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence

from jax.errors import JaxRuntimeError

from rfm.cli import job
from rfm.cli.config import resolve
from rfm.cli.environment import arrange
from rfm.cli.model_flags import ModelFlags
from rfm.cli.parser import WITHOUT_CONFIG, parse
from rfm.cli.signals import Stop
from rfm.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status.

    0: done. 1: training failed (the loss is not finite). 2: something the user gave is
    wrong, told in one line. 75: another process of the job is lost, all must start again.
    130 and 143: stopped by SIGINT or SIGTERM, state saved.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± and bars
    stop = Stop()
    stop.install()
    try:
        known = parse(sys.argv[1:] if arguments is None else arguments)
        if known.verb != "sweep":  # its runs arrange their own
            arrange()
        return job.run(known, lambda: _guarded(known, stop))
    except UserError as error:  # of the flags
        return _fail(str(error))


def _guarded(known: argparse.Namespace, stop: Stop) -> job.Outcome:
    """Runs the verb; what its user is to know of is one line and a status."""
    try:
        return job.Outcome(_run(known, stop))
    except UserError as error:
        told = error.told
        return job.Outcome(_fail(str(error), told=told), agreed=told)
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        told = getattr(error, "told", False)
        line = f"{where}{error.strerror}; what was saved before is kept"
        return job.Outcome(_fail(line, told=told), agreed=told)
    except (JaxRuntimeError, MemoryError) as error:
        if isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        what = str(error).removeprefix("RESOURCE_EXHAUSTED: ").splitlines()
        status = _fail(
            f"out of memory ({what[0] if what else 'on the host'}): lower config.model.width or"
            " config.train.batch_size, raise config.train.micro_batches, and for measures lower"
            " config.evaluation.batch_size or .chunk"
        )
        return job.Outcome(status, agreed=False)


def _run(known: argparse.Namespace, stop: Stop) -> int:
    # What is told to all, and when, follows from the flags, the config and the data.
    given = {name: str(value) for name, value in vars(known).items() if name != "process"}
    job.same("command", lambda: json.dumps(given))
    if known.verb not in WITHOUT_CONFIG:
        known.config, known.workdir = resolve(
            known.config, known.workdir, known.overrides, model=ModelFlags.of(known)
        )
        job.same("config", lambda: json.dumps(known.config.to_dict(), sort_keys=True))
    from rfm.cli import verbs  # a second of imports, which a wrong flag need not wait for

    return verbs.VERBS[known.verb](known, stop)


def _fail(message: str, *, told: bool = False) -> int:
    line = " ".join(message.split())
    job.say(line, told=told)
    return 2
