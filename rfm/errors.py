"""The one exception that is meant for the person at the keyboard.

Inside the library a wrong argument raises ``ValueError`` or ``TypeError`` as usual.
Where a *file*, a *flag* or a *config* is wrong, the code raises ``UserError`` with a
single line that says what is wrong, where, and what would be right. The command
line prints that line and exits with status 2; nothing else is caught there, so a
traceback always means a defect in ``rfm``.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Choice = TypeVar("Choice")


class UserError(ValueError):
    """A mistake of the user's, told in one line of the user's words.

    Attributes:
      told: of several processes, all have the same error; see `rfm.processes.by_first`.
    """

    def __init__(self, message: str, *, told: bool = False) -> None:
        super().__init__(message)
        self.told = told


def did_you_mean(word: str, words: Iterable[str], prefix: str = "") -> str:
    """``"; did you mean WORD?"`` if one of `words` is close, else nothing."""
    close = difflib.get_close_matches(str(word), list(words), n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def choose(field: str, name: str, choices: Mapping[str, Choice]) -> Choice:
    """What `choices` calls `name`.

    Raises:
      UserError: nothing; names the field, the choices, and one that may have been meant.
    """
    if name not in choices:
        close = difflib.get_close_matches(str(name), choices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"{field} {name!r} is not one of {', '.join(sorted(choices))}{hint}")
    return choices[name]
