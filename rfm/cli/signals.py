"""SIGTERM and SIGINT: save first, then go."""

import signal
import sys
from types import FrameType


class Stop:
    """Turns signals into a request while training, into an exit otherwise.

    Training asks ``requested()`` after each dispatch, when its state is whole. All other
    work writes each result as it is done, so it can be left at once. A second signal
    ends the process where it is.
    """

    def __init__(self) -> None:
        self._number = 0
        self._deferred = False

    def install(self) -> None:
        """Handles SIGTERM and SIGINT from now on."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def defer(self, deferred: bool) -> None:
        """Whether signals are requests to be asked for."""
        self._deferred = deferred

    def requested(self) -> bool:
        """Has a signal come?"""
        return bool(self._number)

    @property
    def status(self) -> int:
        """The exit status that says which signal it was."""
        return 128 + self._number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self._number = bool(self._number), number
        if again or not self._deferred:
            print("\nrfm: stopped; the same command goes on", file=sys.stderr)
            raise SystemExit(self.status)
        print("\nrfm: stopping after this dispatch...", file=sys.stderr)
