"""Connections that tell every process of a job at once when one of them has ended.

The first process holds one to each other process. Whoever ends in any way, killed included,
has its connections closed by the kernel; the first process then ends, too, and with it all
others. (A machine that vanishes closes nothing: JAX's heartbeats find that out.) Before they
end as they should, processes say so, and wait for each other.
"""

import contextlib
import hmac
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable

from rfm import processes

_PARTING = b"."
_TOKEN = 16  # bytes: nobody else is to be taken for a process


class Lifeline:
    """The connections of this process, watched by a thread.

    Args:
      host: where the first process is, as the others call it.
      lost: called in that thread with the number of a process that ended before its time.
      seconds: how long to wait for the others to connect.

    Raises:
      OSError: some of the connections cannot be made; this process's are closed.
    """

    def __init__(self, host: str, lost: Callable[[int], None], *, seconds: float = 30.0) -> None:
        self._lost = lost
        self._told: set[int] = set()  # who is about to end as it should
        self._over = threading.Event()  # all are
        with contextlib.ExitStack() as failing:
            if processes.is_first():
                self._peers = _accept(failing, seconds)
            else:
                self._peers = {0: _connect(failing, host, seconds)}
            failing.pop_all()
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def part(self, seconds: float) -> bool:
        """Waits until all processes have come here; false if they have not come in time."""
        if not processes.is_first():
            self._say(self._peers[0])
            return self._over.wait(seconds)
        end = time.monotonic() + seconds
        while len(self._told) < len(self._peers):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        self._over.set()
        for peer in self._peers.values():
            self._say(peer)
        return True

    def _say(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer.sendall(_PARTING)

    def _watch(self) -> None:
        selector = selectors.DefaultSelector()
        for number, peer in self._peers.items():
            selector.register(peer, selectors.EVENT_READ, number)
        while not self._over.is_set():
            for ready, _ in selector.select(timeout=1.0):
                number = ready.data
                if _receive(self._peers[number], 1) == _PARTING:
                    self._told.add(number)
                    if not processes.is_first():
                        self._over.set()
                else:
                    selector.unregister(self._peers[number])
                    if not self._over.is_set():
                        self._lost(number)


def _accept(failing: contextlib.ExitStack, seconds: float) -> dict[int, socket.socket]:
    server = socket.create_server(("", 0), backlog=processes.count())
    token = secrets.token_hex(_TOKEN)
    with server:
        processes.by_first(lambda: [server.getsockname()[1], token])
        peers: dict[int, socket.socket] = {}
        end = time.monotonic() + seconds
        while len(peers) < processes.count() - 1:
            server.settimeout(max(end - time.monotonic(), 0.001))
            peer, _ = server.accept()
            failing.callback(peer.close)
            peer.settimeout(max(end - time.monotonic(), 0.001))
            said = _receive(peer, 2 * _TOKEN + 4)
            if hmac.compare_digest(said[:-4], token.encode()):
                peers[int.from_bytes(said[-4:], "big")] = peer
            else:
                peer.close()
    return peers


def _connect(failing: contextlib.ExitStack, host: str, seconds: float) -> socket.socket:
    port, token = processes.by_first(lambda: None)  # the first one answers
    peer = socket.create_connection((host, port), timeout=seconds)
    failing.callback(peer.close)
    peer.sendall(token.encode() + processes.number().to_bytes(4, "big"))
    return peer


def _receive(peer: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer if the other end closes."""
    found = b""
    with contextlib.suppress(OSError):
        while len(found) < count and (more := peer.recv(count - len(found))):
            found += more
    return found
