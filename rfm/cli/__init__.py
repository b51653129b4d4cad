"""The command line: one verb per job.

Everything that is global is arranged here, before JAX starts: one device per core on
CPU, deterministic operations on GPU, a persistent compilation cache. A library import
does none of it.
"""

import sys
from collections.abc import Sequence

from rfm.cli.environment import arrange
from rfm.cli.parser import make_parser, split_overrides
from rfm.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status.

    0: done. 1: training failed (the loss is not finite). 2: something the user gave is
    wrong, told in one line. 130 and 143: stopped by SIGINT or SIGTERM, state saved.
    """
    parser = make_parser()
    known, rest = parser.parse_known_args(arguments)
    try:
        overrides = split_overrides(rest)
        arrange()
        from rfm.cli import verbs

        return verbs.VERBS[known.verb](known, overrides)
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror}; what was saved before is kept")


def _fail(message: str) -> int:
    line = " ".join(message.split())
    print(f"rfm: {line}", file=sys.stderr)
    return 2
