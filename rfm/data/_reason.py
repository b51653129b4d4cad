"""What another library's exception says, short enough for a line of ours."""

import textwrap


def reason(error: Exception) -> str:
    """The first line of the message, or the exception's name if it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return textwrap.shorten(lines[0], width=200, placeholder=" ...").rstrip(".")
