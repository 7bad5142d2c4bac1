"""Round trips of the job's links: the first packet of a connection to where the link goes, from where it comes from.

The callee's kernel answers it, ours takes the connection back, and the callee's program never hears of it. The packet has the
link's own addresses and port, so that whatever is done to the link's packets is done to it as well.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import random
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from telemetry.nametable import NameTable
from telemetry.registry import Registered
from telemetry.sources import Reading
from telemetry.visit import in_network

#: Metric and unit. A link's component is ``src>dst:purpose``, its host the dialler's.
PING_METRICS: tuple[tuple[str, str], ...] = (("link_ping_s", "s"), ("link_ping_waiting_s", "s"), ("link_ping_refused", "flag"))
#: An answer is waited for so long before the next is asked for; it counts also when it comes later.
PATIENCE_S = 1.0
#: Of those that were not answered, so many numbers are remembered for each link.
REMEMBERED = 16
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_TCP = struct.Struct("!HHIIBBHHH")
_STAMP = struct.Struct("@qq")

logger = logging.getLogger("sampler")


class Prober:
    """Sends first packets from one network, and hears their answers. Raises OSError where it may not: it needs CAP_NET_RAW."""

    def __init__(self) -> None:
        # Bound and never connected: the port is ours, and whoever answers to it is told that there is no connection.
        self._port = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._port.bind(("0.0.0.0", 0))  # noqa: S104 - it never listens
        self._own = self._port.getsockname()[1]
        try:
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        except OSError:
            self._port.close()
            raise
        hear_only(self._raw, self._own)
        self._raw.settimeout(0)
        self._raw.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        self._raw.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._numbers = itertools.count(random.getrandbits(32), 7)

    def ask(self, source: str, target: str) -> int:
        """Send one; returns the number that its answer will bear. Where there is no way to the target, nothing will answer."""
        number = next(self._numbers) % (1 << 32)
        address, _, port = target.rpartition(":")
        with suppress(OSError):
            ends = socket.inet_aton(source), socket.inet_aton(address)
            segment = bytearray(_TCP.pack(self._own, int(port), number, 0, 5 << 4, _SYN, 1024, 0, 0))
            pseudo = b"".join(ends) + struct.pack("!HH", socket.IPPROTO_TCP, len(segment))
            struct.pack_into("!H", segment, 16, checksum(pseudo + segment))
            # Length, number and checksum of this header are the kernel's to fill in.
            header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0, *ends)
            self._raw.sendto(header + segment, (address, 0))
        return (number + 1) % (1 << 32)

    def answers(self) -> Iterator[tuple[int, float, bool]]:
        """Number, wall time of arrival in seconds (the kernel's), and whether it was a refusal, of all that came."""
        while True:
            try:
                packet, extras, _, _ = self._raw.recvmsg(128, 64)
            except OSError:  # nothing more, or no network any more
                return
            at = (packet[0] & 15) * 4
            if len(packet) < at + _TCP.size:
                continue
            _, own, _, number, _, flags, *_ = _TCP.unpack_from(packet, at)
            stamps = [_STAMP.unpack(data) for _, kind, data in extras if kind == _SO_TIMESTAMPNS]
            if own == self._own and flags & _ACK and flags & (_SYN | _RST):
                came_s = stamps[0][0] + stamps[0][1] / 1e9 if stamps else time.time()
                yield number, came_s, bool(flags & _RST)

    def close(self) -> None:
        """Give both sockets back; idempotent."""
        self._raw.close()
        self._port.close()


class PingSource:
    """Asks each link once a beat, unless it is still to answer, in the network of each host that has a process.

    A link that goes through a relay is not asked: the relay's kernel would answer, whatever the link is like behind it.
    """

    def __init__(self, names: NameTable) -> None:
        self._names = names
        self._hosts: dict[str, _Host | None] = {}
        self.lacks = ""

    def follow(self, entries: dict[str, Registered]) -> None:
        """Enter the network of each host that was not entered yet; where that is refused, its links are not asked."""
        for entry in entries.values():
            if entry.host in self._hosts:
                continue
            try:
                self._hosts[entry.host] = _Host(in_network(entry.pid, Prober))
            except (FileNotFoundError, ProcessLookupError):
                continue  # gone already; another one of that host will come
            except OSError as error:
                logger.warning("links of %s cannot be asked: %s", entry.host, error)
                self._hosts[entry.host] = None

    def read(self, mono_s: float) -> Iterable[Reading]:  # noqa: ARG002 - answers bear the kernel's wall time
        """Per link: the round trip of the last answer since the last reading, or how long one is waited for; then ask again."""
        links, relayed = self._names.links(), self._names.relayed()
        direct = {key: name for key, name in links.items() if name not in relayed}
        self.lacks = "every link goes through a relay" if links and not direct else ""
        if self._hosts and not any(self._hosts.values()):
            self.lacks = "raw sockets are not allowed here"
        for where, host in self._hosts.items():
            if host:
                own = {name: key[1:] for key, name in direct.items() if key[0] == where}
                for name, values in host.ask(own, time.time()):
                    yield where, name, PING_METRICS, values

    def close(self) -> None:
        """Give the sockets back; idempotent."""
        for host in self._hosts.values():
            if host:
                host.prober.close()


@dataclass
class _Link:
    """What one link was asked and has not answered: when, by number; since when it is silent; how it answered last."""

    waiting: dict[int, float] = field(default_factory=dict)
    since_s: float = 0.0
    refused: bool = False

    def heard(self, number: int) -> float:
        """When that was asked. What was asked earlier is answered with it: those answers are lost, or of no interest."""
        asked_s = self.waiting[number]
        self.waiting = {other: when for other, when in self.waiting.items() if when > asked_s}
        self.since_s = min(self.waiting.values(), default=0.0)
        return asked_s

    def asked(self, number: int, now_s: float) -> None:
        """Remember it, and forget the oldest where there are too many; since when it is silent stays known."""
        self.since_s = self.since_s if self.waiting else now_s
        self.waiting[number] = now_s
        if len(self.waiting) > REMEMBERED:
            del self.waiting[min(self.waiting, key=lambda other: self.waiting[other])]


class _Host:
    """The links that are dialled from one host."""

    def __init__(self, prober: Prober) -> None:
        self.prober = prober
        self._links: dict[str, _Link] = {}

    def ask(self, ends: dict[str, tuple[str, str]], now_s: float) -> Iterator[tuple[str, list[float | None]]]:
        """``ends``: link -> its addresses; ``now_s``: wall time. One value per `PING_METRICS` of each; then ask who is free."""
        self._links = {name: self._links.get(name) or _Link() for name in ends}
        trips = self._hear()
        for name, (source, target) in ends.items():
            link = self._links[name]
            yield name, [trips.get(name), max(0.0, now_s - link.since_s) if link.waiting else 0.0, float(link.refused)]
            if not link.waiting or now_s - max(link.waiting.values()) >= PATIENCE_S:
                asked_s = time.time()
                link.asked(self.prober.ask(source, target), asked_s)

    def _hear(self) -> dict[str, float]:
        owners = {number: name for name, link in self._links.items() for number in link.waiting}
        trips = {}
        for number, came_s, refused in self.prober.answers():
            name = owners.get(number)
            if name and number in self._links[name].waiting:
                trips[name] = max(0.0, came_s - self._links[name].heard(number))
                self._links[name].refused = refused
        return trips


def hear_only(raw: socket.socket, port: int) -> None:
    """Let the kernel pass on nothing but TCP packets to ``port``; without that, every byte of the job would come here too."""
    program = b"".join(
        struct.pack("=HBBI", *step)
        for step in (
            (0xB1, 0, 0, 0),  # the length of the header of IP
            (0x48, 0, 0, 2),  # the port behind it
            (0x15, 0, 1, port),
            (0x06, 0, 0, 0xFFFF),
            (0x06, 0, 0, 0),
        )
    )
    kept = ctypes.create_string_buffer(program)
    raw.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(kept)))


def checksum(data: bytes) -> int:
    """The internet's: the complement of the sum of all words, in ones' complement."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
