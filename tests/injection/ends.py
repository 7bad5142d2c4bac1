"""The two ends of a link as the conformance suite uses them, and what can be observed from the near one."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from injection import echo, namespace
from injection.target import LiveLink

SIZE_BYTES = 4
#: Bytes a second of the narrow link that is tried; what an untouched one may take on a busy machine, and must carry.
RATE = 100_000.0
IDLE_S, IDLE_BYTES_PER_S = 0.03, 3 * RATE
DATAGRAMS = 600


def _read(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (piece := connection.recv(size - len(got))):
        got += piece
    return got


def request(connection: socket.socket, size: int) -> None:
    connection.sendall(size.to_bytes(SIZE_BYTES) + bytes(size))
    if len(_read(connection, size)) < size:
        raise ConnectionResetError("closed before the answer was whole")


class Server:
    """At a link's far end: takes a request (its size, then that many bytes), then sends as many back."""

    def __init__(self, host: str, address: str, port: int) -> None:
        self._listener = namespace.within(host, lambda: socket.create_server((address, port)))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while size := int.from_bytes(_read(client, SIZE_BYTES)):
                client.sendall(_read(client, size))


class Caller:
    """The near end of a link: one standing connection, and what can be observed with it."""

    def __init__(self, link: LiveLink) -> None:
        self.link, self.relayed = link, not link.src_host
        self.standing = self.dial(2.0)

    def dial(self, timeout_s: float) -> socket.socket:
        link = self.link
        where, near = (link.dst_address, link.dst_port), (link.src_address, 0)
        made = namespace.within(link.src_host, lambda: socket.create_connection(where, timeout_s, near))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def round_trip_s(self) -> float:
        """The shortest of a few."""
        return min(self.once_s() for _ in range(3))

    def once_s(self) -> float:
        """One byte there and back."""
        began = time.monotonic()
        request(self.standing, 1)
        return time.monotonic() - began

    def carried_bytes_per_s(self, size: int) -> float:
        """Of one request and its answer."""
        with self.dial(30.0) as made:
            began = time.monotonic()
            request(made, size)
            return size / (time.monotonic() - began)

    def lost(self, backward: bool, count: int = DATAGRAMS) -> int:
        """Datagrams that did not arrive, of `count`."""
        ends = echo.Path(
            self.link.src_host, self.link.src_address, self.link.dst_host, self.link.dst_address, self.link.dst_port
        )
        return sum(one is None for one in echo.one_way(ends, backward, count, 0.0005, 0.3))

    def is_free(self) -> None:
        """Nothing is done to this link."""
        with suppress(OSError):
            self.standing.close()
        self.standing = self.dial(2.0)
        assert self.round_trip_s() < IDLE_S
        assert self.carried_bytes_per_s(int(RATE)) > IDLE_BYTES_PER_S
