"""TCP connections of one network namespace, as the kernel's sock_diag tells them over netlink.

A netlink socket belongs for good to the namespace it was made in. So one is made in the namespace of a process of each virtual
host (`telemetry.visit`); it goes on telling when that process has died.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from telemetry.visit import in_network

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP = 4, 20, 0x301
_DONE, _ERROR = 3, 2
_INFO = 2  # the attribute that holds struct tcp_info
ESTABLISHED, CONNECTING = 1, 2
#: Also those closed with data still to be sent (FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING): the kernel goes on sending.
_STATES = sum(1 << state for state in (ESTABLISHED, CONNECTING, 4, 8, 9, 11))
#: struct inet_diag_msg: family, state, ports, addresses, cookie, receive and send queue.
_MESSAGE = struct.Struct("=BB2x2s2s16s16s4xQ4xII8x")
#: Of struct tcp_info: ms since data was received (52), rtt in us (68), total_retrans (100), bytes acked and received (120).
_TCP = struct.Struct("=52xI12xI28xI16xQQ")
_MAPPED = b"\0" * 10 + b"\xff\xff"


@dataclass(frozen=True)
class Connection:
    """One TCP connection: its two ends as ``address:port``, counts since it was made, queues in bytes."""

    local: str
    remote: str
    state: int
    cookie: int
    receive_queue: int
    send_queue: int
    silent_s: float
    """since data was last received"""
    rtt_s: float
    retransmits: int
    acked: int
    received: int


class SocketTable:
    """Connections of the network namespace in which process ``pid`` lives. Raises OSError where it is gone or not allowed."""

    def __init__(self, pid: int) -> None:
        self._socket = in_network(pid, _netlink)
        self._socket.settimeout(1.0)
        self._buffer = bytearray(1 << 16)
        self._asked = 0

    def connections(self) -> list[Connection]:
        """All connections now, of IPv4 and of IPv6 sockets that carry IPv4. Raises OSError where the kernel refuses."""
        return [one for family in (socket.AF_INET, socket.AF_INET6) for one in self._dump(family)]

    def close(self) -> None:
        """Give the socket back; idempotent."""
        self._socket.close()

    def _dump(self, family: int) -> Iterator[Connection]:
        self._asked += 1
        request = struct.pack("=BBBxI48x", family, socket.IPPROTO_TCP, 1 << (_INFO - 1), _STATES)
        header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, self._asked, 0)
        self._socket.send(header + request)
        view = memoryview(self._buffer)
        while True:
            size, at = self._socket.recv_into(self._buffer), 0
            while at + 16 <= size:
                length, kind, answered = struct.unpack_from("=IH2xI", view, at)
                body, at = view[at + 16 : at + length], at + ((length + 3) & ~3)
                if answered != self._asked:
                    continue  # what an earlier call that failed had left
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", body)[0], "sock_diag refused")
                found = _connection(body)
                if found:
                    yield found


def _connection(message: memoryview) -> Connection | None:
    """None for one without tcp_info: it is about to go."""
    _, state, sport, dport, source, destination, cookie, receive, send = _MESSAGE.unpack_from(message)
    at = _MESSAGE.size
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == _INFO and length - 4 >= _TCP.size:
            silent_ms, rtt_us, again, acked, received = _TCP.unpack_from(message, at + 4)
            ends = _end(message[0], source, sport), _end(message[0], destination, dport)
            return Connection(*ends, state, cookie, receive, send, silent_ms / 1e3, rtt_us / 1e6, again, acked, received)
        at += max(4, (length + 3) & ~3)
    return None


def _end(family: int, address: bytes, port: bytes) -> str:
    if family == socket.AF_INET:
        name = socket.inet_ntop(family, address[:4])
    else:
        mapped = address.startswith(_MAPPED)
        name = socket.inet_ntop(socket.AF_INET, address[12:]) if mapped else f"[{socket.inet_ntop(family, address)}]"
    return f"{name}:{int.from_bytes(port, 'big')}"


def _netlink() -> socket.socket:
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    one.connect((0, 0))
    return one
