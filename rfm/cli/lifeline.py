"""Connections that tell every process of a job at once when one of them has ended.

The first process holds one to each other process. Whoever ends in any way, killed included,
has its connections closed by the kernel; the first process then ends, too, and with it all
others. (A machine that vanishes closes nothing: keepalives and JAX's heartbeats find that out.)
Before it ends, a process says whether all end as they have agreed, and then waits for the
others however long they still write, or that it has failed alone.
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

_AGREED, _ALONE = b".", b"!"  # the latter is followed by a status
_TOKEN = 16  # bytes: nobody else is to be taken for a process
_HANDSHAKE_SECONDS = 2.0
_GRACE_SECONDS = 2.0  # the same may have failed here: then this process has its own line to say
_LEAVE_SECONDS = 10.0  # in which those who have been told end


class Lifeline:
    """The connections of this process, watched by a thread.

    Args:
      host: where the first process is, as the others call it.
      lost: called in that thread when another process has ended before its time: with its number
        (0: the first one, or one that it lost), and its status if it could still say it.
      seconds: how long to wait for the others to connect.

    Raises:
      OSError: some of the connections cannot be made. All processes have it then, and none.
    """

    def __init__(
        self, host: str, lost: Callable[[int, int | None], None], *, seconds: float = 30.0
    ) -> None:
        self._lost = lost
        self._told: set[int] = set()  # who has said that it ends as agreed
        self._over = threading.Event()  # all have
        self._peers, problem = _connected(host, seconds)
        if processes.largest(problem is not None):
            for peer in self._peers.values():
                peer.close()
            raise problem or OSError(None, "another process cannot connect")
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def part(self) -> None:
        """Waits until all processes have come here, as they have agreed to."""
        if not processes.is_first():
            _send(self._peers[0], _AGREED)
            self._over.wait()
            return
        while len(self._told) < len(self._peers):
            time.sleep(0.01)
        self._over.set()
        for peer in self._peers.values():
            _send(peer, _AGREED)

    def fail(self, status: int) -> None:
        """Says that this process ends alone, with a status from 1 to 255.

        The first process then waits for the others to end: JAX's service ends with it, and
        aborts whoever is left in the middle of their lines.
        """
        self._over.set()
        for peer in self._peers.values():
            _send(peer, _ALONE + bytes([status]))
        if processes.is_first():
            end = time.monotonic() + _LEAVE_SECONDS
            for peer in self._peers.values():
                _wait_for_end(peer, end)

    def _watch(self) -> None:
        selector = selectors.DefaultSelector()
        for number, peer in self._peers.items():
            selector.register(peer, selectors.EVENT_READ, number)
        while not self._over.is_set():
            for ready, _ in selector.select(timeout=1.0):
                number, peer = ready.data, self._peers[ready.data]
                said = _receive(peer, 1)
                if said == _AGREED:
                    self._told.add(number)
                    if not processes.is_first():
                        self._over.set()
                    continue
                selector.unregister(peer)
                status = _receive(peer, 1) if said == _ALONE else b""
                if status:
                    time.sleep(_GRACE_SECONDS)
                if not self._over.is_set():
                    self._lost(number, status[0] if status else None)


def _connected(host: str, seconds: float) -> tuple[dict[int, socket.socket], OSError | None]:
    """Connections by process number, and what went wrong."""
    peers: dict[int, socket.socket] = {}
    servers: list[socket.socket] = []
    token = secrets.token_hex(_TOKEN)

    def listen() -> list[object]:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        servers.append(
            socket.create_server(
                ("", 0), family=family, dualstack_ipv6=both, backlog=processes.count()
            )
        )
        return [servers[0].getsockname()[1], token]

    port, told = processes.by_first(listen)
    try:
        if processes.is_first():
            _accept(servers[0], told, peers, seconds)
        else:
            peers[0] = socket.create_connection((host, port), timeout=seconds)
            peers[0].sendall(told.encode() + processes.number().to_bytes(4, "big"))
    except OSError as error:
        return peers, error
    finally:
        for server in servers:
            server.close()
    for peer in peers.values():
        peer.settimeout(None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return peers, None


def _accept(
    server: socket.socket, token: str, peers: dict[int, socket.socket], seconds: float
) -> None:
    end = time.monotonic() + seconds
    while len(peers) < processes.count() - 1:
        server.settimeout(max(end - time.monotonic(), 0.001))
        peer, _ = server.accept()
        peer.settimeout(_HANDSHAKE_SECONDS)
        said = _receive(peer, len(token) + 4)
        if hmac.compare_digest(said[:-4], token.encode()):
            peers[int.from_bytes(said[-4:], "big")] = peer
        else:
            peer.close()


def _send(peer: socket.socket, content: bytes) -> None:
    with contextlib.suppress(OSError):
        peer.sendall(content)


def _wait_for_end(peer: socket.socket, end: float) -> None:
    """Until the other end has closed, or the monotonic clock shows `end`."""
    with contextlib.suppress(OSError):
        while (left := end - time.monotonic()) > 0:
            peer.settimeout(left)
            if not peer.recv(1):
                return


def _receive(peer: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer if the other end closes."""
    found = b""
    with contextlib.suppress(OSError):
        while len(found) < count and (more := peer.recv(count - len(found))):
            found += more
    return found
