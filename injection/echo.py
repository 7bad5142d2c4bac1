"""What a packet of a link meets, found out by sending some: numbered datagrams along the link's own addresses and port.

The job's links are TCP, so the datagram port of the same number is free, and the job sees nothing of it.
Shares no code with what holds or drops packets.
"""

from __future__ import annotations

import errno
import select
import socket
import statistics
import struct
import time
from dataclasses import dataclass
from typing import Any

from injection import namespace

#: How long a port is waited for that another measurement of the same link has.
TURN_S, TURN_POLL_S = 20.0, 0.01
NUMBERED = struct.Struct("!Id")
ROOM_BYTES = 4 << 20


@dataclass(frozen=True)
class Path:
    """A link's two ends: where they are and under which address; `port` is the destination's."""

    src_host: str
    src: str
    dst_host: str
    dst: str
    port: int


def one_way(path: Path, backward: bool, count: int, gap_s: float, wait_s: float) -> list[float | None]:
    """Seconds that each of `count` datagrams took, sent `gap_s` apart; None where one did not come within `wait_s`.

    Two on one link take turns. Raises OSError, e.g. where a program of the job has the datagram port.
    """
    near = namespace.within(path.src_host, lambda: _bound(path.src, 0))
    far = namespace.within(path.dst_host, lambda: _bound(path.dst, path.port))
    with near, far:
        ends = (far, near) if backward else (near, far)
        return _measure(*ends, count, gap_s, wait_s)


def _bound(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM_BYTES)
    deadline = time.monotonic() + TURN_S
    while True:
        try:
            made.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                made.close()
                raise
            time.sleep(TURN_POLL_S)
        else:
            return made


def _measure(sender: socket.socket, receiver: socket.socket, count: int, gap_s: float, wait_s: float) -> list[float | None]:
    to, took = receiver.getsockname(), [None] * count
    began, sent, missing = time.monotonic(), 0, count
    while missing:
        now = time.monotonic()
        if sent < count and now >= began + sent * gap_s:
            sender.sendto(NUMBERED.pack(sent, now), to)
            sent += 1
            continue
        until = began + sent * gap_s if sent < count else began + (count - 1) * gap_s + wait_s
        if sent == count and now > until:
            break
        if select.select([receiver], [], [], max(0.0, until - now))[0]:
            number, at = NUMBERED.unpack(receiver.recv(NUMBERED.size))
            took[number] = time.monotonic() - at
            missing -= 1
    return list(took)


def summary(took: list[float | None]) -> dict[str, Any]:
    """Of what `one_way` found: how many were sent and came, and mean, least, spread (ms) of how long they took."""
    came = [1000 * one for one in took if one is not None]
    figures: dict[str, Any] = {"sent_count": len(took), "received_count": len(came)}
    if came:
        spread = statistics.pstdev(came)
        figures |= {"mean_ms": round(statistics.fmean(came), 3), "least_ms": round(min(came), 3), "spread_ms": round(spread, 3)}
    return figures


def dial(path: Path, wait_s: float) -> str:
    """What becomes of a connection dialled along the link: `connected`, `timed out`, or the error's name."""

    def attempt() -> str:
        try:
            socket.create_connection((path.dst, path.port), wait_s, (path.src, 0)).close()
        except TimeoutError:
            return "timed out"
        except OSError as error:
            return type(error).__name__
        return "connected"

    return namespace.within(path.src_host, attempt)
