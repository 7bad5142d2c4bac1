"""Packet rules by netlink: one nf_tables transaction, which is one message, puts up all that a fault does to packets of a link.

By hand, because pyroute2 has no queue and no compatible target, and a process that only holds packets should not load it.
A table here is *owned*: the kernel removes it when the socket that made it is closed, however its process ended.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

NETLINK_NETFILTER = 12
HEADER = struct.Struct("=IHHII")
FAMILY_HEADER = struct.Struct("!BBH")
ATTRIBUTE = struct.Struct("=HH")
NESTED = 0x8000
NLMSG_ERROR = 2
REQUEST, ACK, CREATE = 0x01, 0x04, 0x400
IPV4 = 2
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NFTABLES = 10
NEW_TABLE, GET_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE = (NFTABLES << 8 | number for number in (0, 1, 2, 3, 6))
OWNED = 2
#: The hook of packets that have just arrived, before routing and connection tracking (at -200) have seen them; and how many
#: tables can be told one after another there. Of two at the same place the younger would come first.
PREROUTING, BEFORE_ALL, PLACES = 0, -300, 100
DROP = 0
#: Loss is drawn from so many equal chances.
CHANCES = 1_000_000_000
ANSWER_S = 5.0
#: What a packet came by, as the kernel calls it: which of its notes, and how long a name is there.
IIFNAME, IFNAMSIZ = 6, 16


@dataclass(frozen=True)
class Flow:
    """Packets from `src` to `dst`; the port (of the component that listens) is at their far end, or at their near end."""

    src: str
    dst: str
    port: int
    answers: bool = False

    def backwards(self) -> Flow:
        """The packets that answer these."""
        return Flow(self.dst, self.src, self.port, not self.answers)


def attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    return ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, *inner: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | NESTED, b"".join(inner))


def text(kind: int, value: str) -> bytes:
    """A string attribute."""
    return attribute(kind, value.encode() + b"\0")


def be32(kind: int, value: int) -> bytes:
    """A number in network order; negative ones in two's complement."""
    return attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def message(kind: int, flags: int, sequence: int, body: bytes, family: int = IPV4, resource: int = 0) -> bytes:
    """One netfilter message."""
    length = HEADER.size + FAMILY_HEADER.size + len(body)
    return HEADER.pack(length, kind, flags, sequence, 0) + FAMILY_HEADER.pack(family, 0, resource) + body


def messages(data: bytes) -> Iterable[tuple[int, int, bytes]]:
    """Kind, sequence number and body (without the netlink header) of each message received."""
    while len(data) >= HEADER.size:
        length, kind, _, sequence, _ = HEADER.unpack_from(data)
        yield kind, sequence, data[HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def attributes(data: bytes) -> dict[int, bytes]:
    """Kind -> value of the attributes in `data`; of several of a kind the last."""
    found = {}
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        found[kind & ~NESTED] = data[ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


def open_socket() -> socket.socket:
    """A netfilter socket of the network that the calling thread is in."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    opened.bind((0, 0))
    opened.settimeout(ANSWER_S)
    return opened


def ask(netlink: socket.socket, request: bytes, sequence: int) -> None:
    """Send messages at once and wait for the answer to `sequence`. Raises OSError with the kernel's refusal."""
    _forget(netlink)
    netlink.sendto(request, (0, 0))
    while True:
        for kind, answered, body in messages(netlink.recv(1 << 16)):
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    raise OSError(code, f"netfilter refuses: {os.strerror(code)}")
                if answered == sequence:
                    return


def _forget(netlink: socket.socket) -> None:
    """Pass over what is left of the answers to an earlier request, which was refused in several places."""
    while select.select([netlink], [], [], 0)[0]:
        netlink.recv(1 << 16)


def _expression(name: str, *inner: bytes) -> bytes:
    return nest(1, text(1, name), nest(2, *inner))


def _equal(base: int, offset: int, value: bytes) -> bytes:
    """Packets with `value` at `offset` behind the network (1) or transport (2) header."""
    load = _expression("payload", be32(1, 1), be32(2, base), be32(3, offset), be32(4, len(value)))
    return load + _expression("cmp", be32(1, 1), be32(2, 0), nest(3, attribute(1, value)))


def present(interface: str) -> None:
    """Raises OSError where the calling thread's network has no such device."""
    try:
        socket.if_nametoindex(interface)
    except OSError as error:
        raise OSError(errno.ENODEV, f"there is no device {interface} in this network") from error


def of_device(interface: str) -> bytes:
    """Packets that arrived by a device of this network. Raises OSError where there is none of that name."""
    present(interface)
    name = interface.encode().ljust(IFNAMSIZ, b"\0")
    return _expression("meta", be32(1, 1), be32(2, IIFNAME)) + _expression(
        "cmp", be32(1, 1), be32(2, 0), nest(3, attribute(1, name))
    )


def of_flow(flow: Flow) -> bytes:
    """Packets of a flow, TCP and UDP alike, counted."""
    addresses = socket.inet_aton(flow.src) + socket.inet_aton(flow.dst)
    port = _equal(2, 0 if flow.answers else 2, struct.pack("!H", flow.port))
    return _equal(1, 12, addresses) + port + _expression("counter")


def drop() -> bytes:
    """Away with them, without a word to the sender."""
    return _expression("immediate", be32(1, 0), nest(2, nest(2, be32(1, DROP))))


def by_chance(probability_ratio: float) -> bytes:
    """Go on with this rule for a packet in so many only, each drawn for itself."""
    drawn = _expression("numgen", be32(1, 1), be32(2, CHANCES), be32(3, 1))
    ordered = _expression("byteorder", be32(1, 1), be32(2, 1), be32(3, 1), be32(4, 4), be32(5, 4))
    below = attribute(1, struct.pack("!I", round(probability_ratio * CHANCES)))
    return drawn + ordered + _expression("cmp", be32(1, 1), be32(2, 2), nest(3, below))


def reset() -> bytes:
    """Answer with a TCP reset, and away with the packet."""
    return _expression("reject", be32(1, 1), attribute(2, b"\0"))


def to_queue(netlink: socket.socket, number: int) -> bytes:
    """To the process that listens to queue `number` of this network; where nobody does, straight on.

    By the rule of nf_tables itself, or by the target of its elder sister, which some kernels have alone. Raises OSError.
    """
    own = _expression("queue", *(attribute(kind, struct.pack("!H", value)) for kind, value in ((1, number), (2, 1), (3, 1))))
    try:
        try_out(netlink, [own])
    except FileNotFoundError:
        bypass = struct.pack("=HHHxx", number, 1, 1)
        return _expression("target", text(1, "NFQUEUE"), be32(2, 3), attribute(3, bypass))
    return own


def try_out(netlink: socket.socket, rules: Iterable[bytes]) -> None:
    """See whether the kernel knows such rules: put up where no packet passes, and taken down at once. Raises OSError."""
    trial = f"trial-{os.getpid()}"
    _commit(netlink, [*_table(trial, b"", rules), (DELETE_TABLE, text(1, trial))])


def put_up(netlink: socket.socket, table: str, rules: Iterable[bytes], place: int = 0) -> None:
    """An owned table with one chain and these rules, in one message: all of it or nothing. Raises OSError.

    Packets meet tables in the order of their places.
    """
    hook = nest(4, be32(1, PREROUTING), be32(2, BEFORE_ALL + min(place, PLACES - 1))) + text(7, "filter")
    _commit(netlink, _table(table, hook, rules))


def _table(name: str, hook: bytes, rules: Iterable[bytes]) -> list[tuple[int, bytes]]:
    chain = text(1, name) + text(3, "in") + hook
    made = [(NEW_TABLE, text(1, name) + be32(2, OWNED)), (NEW_CHAIN, chain)]
    return made + [(NEW_RULE, text(1, name) + text(2, "in") + nest(4, rule)) for rule in rules]


def _commit(netlink: socket.socket, steps: list[tuple[int, bytes]]) -> None:
    """One transaction, one message, one answer."""
    last = len(steps)
    inner = (
        message(kind, REQUEST | CREATE | (ACK if number == last else 0), number, body)
        for number, (kind, body) in enumerate(steps, start=1)
    )
    begin, end = (message(kind, REQUEST, 0, b"", 0, NFTABLES) for kind in (BATCH_BEGIN, BATCH_END))
    ask(netlink, begin + b"".join(inner) + end, last)


def stands(table: str) -> bool:
    """Whether a table of that name stands in the network of the calling thread. Raises OSError."""
    with open_socket() as netlink:
        try:
            ask(netlink, message(GET_TABLE, REQUEST | ACK, 1, text(1, table)), 1)
        except FileNotFoundError:
            return False
    return True
