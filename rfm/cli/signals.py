"""SIGTERM and SIGINT: save first, then go."""

import os
import signal
import sys
import threading
import time
from types import FrameType

from rfm import processes

_SAME_SECONDS = 0.5
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_SHOW_CURSOR = b"\x1b[?25h"


class Stop:
    """Turns signals into a request while training, into an exit otherwise.

    Training asks ``requested()`` after each dispatch, when its state is whole. Of several
    processes all ask together, and all stop if a signal has come to one of them. All other
    work writes each result as it is done, so it can be left at once. A second signal
    ends the process where it is. (One that follows at once is the same one: a launcher may
    send it to a process and to its group.)

    Signals are read in a thread of their own: Python's handlers wait until compiled code
    returns, and that can be minutes.
    """

    def __init__(self) -> None:
        self._number = 0  # of the signal that came
        self._agreed = 0  # of one that came to any process
        self._deferred, self._line = False, ""

    def install(self) -> None:
        """Handles SIGTERM and SIGINT from now on."""
        arrived, sent = os.pipe()
        os.set_blocking(sent, False)
        signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
        for number in _STOPPING:
            signal.signal(number, _left_to_the_thread)
        threading.Thread(target=self._watch, args=(arrived,), name="signals", daemon=True).start()

    def defer(self, deferred: bool, line: str = "stopping after this dispatch...") -> None:
        """Whether signals are requests to be asked for, and what is said when one comes."""
        self._deferred, self._line = deferred, line

    def requested(self) -> bool:
        """Has a signal come? All processes must ask together."""
        self._agreed = self._agreed or processes.largest(self._number)
        return bool(self._agreed)

    @property
    def status(self) -> int:
        """The exit status that says which signal it was."""
        return 128 + (self._agreed or self._number)

    def _watch(self, arrived: int) -> None:
        last = -_SAME_SECONDS
        while received := os.read(arrived, 1):
            now, before = time.monotonic(), last
            if received[0] in _STOPPING and now - before > _SAME_SECONDS:
                last = now
                again, self._number = bool(self._number), received[0]
                if again or not self._deferred:
                    _say("stopped; the same command goes on")
                    os._exit(self.status)
                _say(self._line)


def _left_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Keeps the signal from doing what it does by default."""


def _say(line: str) -> None:
    # Straight to the descriptor: the main thread may hold the locks of the streams.
    on_terminal = sys.stderr.isatty()
    start = b"\n" + _SHOW_CURSOR if on_terminal else b""
    os.write(2, start + f"rfm: {line}\n".encode())
