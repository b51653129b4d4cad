"""How long work tells how far it is.

Functions that take a while accept a callable ``progress(task, done, total, fields)``:
what is being done, how much of how much, and a few numbers worth seeing. The command
line draws bars from it; a library user passes nothing.
"""

from collections.abc import Callable, Mapping

Progress = Callable[[str, int, int, Mapping[str, float]], None]


def silent(task: str, done: int, total: int, fields: Mapping[str, float]) -> None:
    """Shows nothing."""
