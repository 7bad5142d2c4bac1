"""How far the clocks of the hosts are from ours: the four times of an exchange of NTP (RFC 5905), over UDP.

Whoever speaks NTP can be asked, a host's own chronyd among them. Where nobody does, this file run as a program answers:
``python -m telemetry.clock ADDRESS:PORT``.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from telemetry.registry import Registered
from telemetry.sources import Reading

#: Metric and unit. Host and component are the host that was asked. The offset is known to within the error.
CLOCK_METRICS: tuple[tuple[str, str], ...] = (("clock_offset_s", "s"), ("clock_error_s", "s"))
#: Flags, stratum, poll, precision, root delay and dispersion, reference; times: reference, originate, receive, transmit.
_PACKET = struct.Struct("!BBbbIIIQQQQ")
_ASK, _ANSWER = 4 << 3 | 3, 4 << 3 | 4
_MODE, _SERVER, _UNSYNCHRONISED = 7, 4, 16
_SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("@qq")
_FROM_1900_S = 2_208_988_800


class ClockSource:
    """Asks each host of ``servers`` (host -> address:port) every ``every_s``, and takes the answers when they have come."""

    def __init__(self, servers: Mapping[str, str], every_s: float) -> None:
        self._every_s = every_s
        self._due_s = 0.0
        self._sockets: dict[str, socket.socket] = {}
        self._asked: dict[str, int] = {}
        self.lacks = "" if servers else "no host was named that could be asked"
        for host, where in servers.items():
            address, _, port = where.rpartition(":")
            self._sockets[host] = one = timed_socket()
            one.settimeout(0)
            one.connect((address, int(port)))

    def follow(self, entries: dict[str, Registered]) -> None:
        """Hosts do not come and go with processes."""

    def read(self, mono_s: float) -> Iterable[Reading]:
        """Offset (theirs minus ours) and error of whom has answered; None of whom has not by the time he is asked again."""
        for host in list(self._asked):
            told = self._hear(host)
            if told:
                del self._asked[host]
                yield host, host, CLOCK_METRICS, list(told)
        if mono_s < self._due_s:
            return
        self._due_s = mono_s + self._every_s
        for host in self._asked:
            yield host, host, CLOCK_METRICS, [None, None]
        self._asked = {host: self._ask(one) for host, one in self._sockets.items()}

    def close(self) -> None:
        """Give the sockets back; idempotent."""
        for one in self._sockets.values():
            one.close()

    def _ask(self, one: socket.socket) -> int:
        asked = stamp(time.time_ns())
        with suppress(OSError):  # nobody was there for the packet before
            one.send(_PACKET.pack(_ASK, 0, 0, 0, 0, 0, 0, 0, 0, 0, asked))
        return asked

    def _hear(self, host: str) -> tuple[float, float] | None:
        """Of the answers that came, the one to what was asked last."""
        while True:
            try:
                data, came_ns, _ = heard(self._sockets[host])
            except OSError:
                return None
            told = offset_s(data, self._asked[host], stamp(came_ns))
            if told:
                return told


def stamp(wall_ns: int) -> int:
    """A time as NTP tells it: seconds since 1900 in 32 bits, and 32 bits behind the point."""
    seconds, rest = divmod(wall_ns, 10**9)
    return ((seconds + _FROM_1900_S) << 32 | (rest << 32) // 10**9) & (1 << 64) - 1


def offset_s(data: bytes, asked: int, came: int) -> tuple[float, float] | None:
    """Offset of the other clock and the most by which that may be wrong; None for what is no answer to what was ``asked``."""
    if len(data) < _PACKET.size:
        return None
    flags, stratum, *_, originate, received, sent = _PACKET.unpack_from(data)
    if originate != asked or flags & _MODE != _SERVER or not sent or not 0 < stratum < _UNSYNCHRONISED:
        return None
    there, back, span, stay = received - asked, sent - came, came - asked, sent - received
    return (_seconds(there) + _seconds(back)) / 2, max(0.0, (_seconds(span) - _seconds(stay)) / 2)


def _seconds(difference: int) -> float:
    """Of two stamps, also across the end of an era (2036)."""
    return ((difference + (1 << 63)) % (1 << 64) - (1 << 63)) / (1 << 32)


def timed_socket() -> socket.socket:
    """For packets whose time of arrival the kernel tells."""
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    return one


def heard(one: socket.socket) -> tuple[bytes, int, Any]:
    """A packet, when it came (wall clock, ns), and from whom."""
    data, extras, _, caller = one.recvmsg(256, 64)
    stamps = [_STAMP.unpack(value) for _, kind, value in extras if kind == _SO_TIMESTAMPNS]
    return data, stamps[0][0] * 10**9 + stamps[0][1] if stamps else time.time_ns(), caller


def serve(listening: socket.socket, wrong_ns: int = 0) -> None:
    """Answer for ever; as a clock that others may go by (stratum 1), for ours is what the experiment goes by.

    ``wrong_ns``: by how much it is to be wrong, for trials.
    """
    while True:
        data, came_ns, caller = heard(listening)
        if len(data) >= _PACKET.size and data[0] & _MODE == _ASK & _MODE:
            asked, received = _PACKET.unpack_from(data)[-1], stamp(came_ns + wrong_ns)
            sent = stamp(time.time_ns() + wrong_ns)
            listening.sendto(_PACKET.pack(_ANSWER, 1, 0, -20, 0, 0, 0, received, asked, received, sent), caller)


def main(where: str) -> None:
    """The program: be a host's clock."""
    address, _, port = where.rpartition(":")
    listening = timed_socket()
    listening.bind((address, int(port)))
    serve(listening)


if __name__ == "__main__":
    main(sys.argv[1])
