"""One NFQUEUE of the kernel: packets wait in it until told to go on or to vanish. By hand, see `netfilter.py`.

Only the number of a packet comes up here, never its contents. Whoever ends without a word drops what is held;
what arrives afterwards passes (the rule says bypass).
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator

from injection import netfilter
from injection.netfilter import ACK, REQUEST, attribute, message

PACKET, VERDICT, CONFIG, VERDICT_UP_TO = (3 << 8 | number for number in (0, 1, 2, 3))
BIND = 1
#: Copy no contents.
META_ONLY = struct.pack("!IB", 0, 1)
#: When the queue is full let packets pass; do not cut up large ones.
FLAGS = 1 | 4
DROPPED, ACCEPTED = 0, 1
#: More than a gigabit second of full frames.
HELD_AT_MOST = 100_000
RECEIVE_BYTES = 64 << 20
#: Where the number of a packet lies in its message: behind both headers and that of the first attribute.
ID = struct.Struct("!I")
ID_AT = 24
TIMESTAMP, STAMP = 4, struct.Struct("!QQ")
ALL = 1 << 30
SO_RCVBUFFORCE = 33
SOL_NETLINK, NO_ENOBUFS = 270, 5
#: Packets taken in one go, so that none that is due waits for a flood to end.
BATCH = 64
TRIES = 20


class PacketQueue:
    """A queue of the network that the calling thread is in, under a free `number`. Raises OSError."""

    def __init__(self) -> None:
        self.socket = netfilter.open_socket()
        self.number = self._bind()
        self._last = 0
        self._set(2, META_ONLY)
        self._set(3, struct.pack("!I", HELD_AT_MOST))
        self._set(4, struct.pack("!I", FLAGS), attribute(5, struct.pack("!I", FLAGS)))
        self._widen()
        self.socket.setblocking(False)  # noqa: FBT003 - its only form

    def _bind(self) -> int:
        """Numbers are the network's, so take one that nobody has."""
        for number in random.sample(range(1, 1 << 16), TRIES):
            try:
                self._configure(number, attribute(1, struct.pack("!BxH", BIND, 0)))
            except PermissionError:  # what the kernel says of a number in use
                continue
            return number
        raise PermissionError(f"{TRIES} packet queues were refused: all in use, or there is no right to any")

    def _set(self, kind: int, value: bytes, more: bytes = b"") -> None:
        self._configure(self.number, attribute(kind, value) + more)

    def _configure(self, number: int, body: bytes) -> None:
        netfilter.ask(self.socket, message(CONFIG, REQUEST | ACK, 1, body, 0, number), 1)

    def _widen(self) -> None:
        """Room for a burst; with the machine's rights as much as asked, else what an ordinary user may have."""
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self.socket.setsockopt(SOL_NETLINK, NO_ENOBUFS, 1)

    def arrivals(self) -> Iterator[tuple[int, float]]:
        """Number, and when it came (seconds since the epoch; 0 = not told), of packets in order, at most `BATCH` of them."""
        for _ in range(BATCH):
            try:
                data = self.socket.recv(4096)
            except BlockingIOError:
                return
            self._last = ID.unpack_from(data, ID_AT)[0]
            yield self._last, _when(data)

    def accept_up_to(self, number: int) -> None:
        """All packets held, up to this one, go on."""
        self._say(VERDICT_UP_TO, ACCEPTED, number)

    def accept_all(self) -> None:
        """Everything held goes on, seen or not."""
        self._say(VERDICT_UP_TO, ACCEPTED, self._last + ALL & 0xFFFFFFFF)

    def drop(self, number: int) -> None:
        """Have this packet vanish."""
        self._say(VERDICT, DROPPED, number)

    def _say(self, kind: int, verdict: int, number: int) -> None:
        body = attribute(2, struct.pack("!II", verdict, number))
        self.socket.sendto(message(kind, REQUEST, 0, body, 0, self.number), (0, 0))


def _when(data: bytes) -> float:
    """The kernel's time stamp in the message of a packet."""
    at = ID_AT - 4
    while at + 4 <= len(data):
        length, kind = netfilter.ATTRIBUTE.unpack_from(data, at)
        if kind == TIMESTAMP:
            seconds, microseconds = STAMP.unpack_from(data, at + 4)
            return float(seconds + microseconds * 1e-6)
        at += (length + 3) & ~3
    return 0.0
