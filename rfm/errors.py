"""The one exception that is meant for the person at the keyboard.

Inside the library a wrong argument raises ``ValueError`` or ``TypeError`` as usual.
Where a *file*, a *flag* or a *config* is wrong, the code raises ``UserError`` with a
single line that says what is wrong, where, and what would be right. The command
line prints that line and exits with status 2; nothing else is caught there, so a
traceback always means a defect in ``rfm``.
"""


class UserError(ValueError):
    """A mistake of the user's, told in one line of the user's words."""
