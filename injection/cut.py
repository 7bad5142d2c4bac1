"""Connections that stand are aborted by the kernel: the far end gets a TCP reset at once, whether anything flows or not."""

from __future__ import annotations

import errno
import os
import socket
import struct

from injection.netfilter import ACK, HEADER, NLMSG_ERROR, REQUEST, Flow, messages

NETLINK_SOCK_DIAG = 4
BY_FAMILY, DESTROY = 20, 21
DUMP = 0x300
DONE = 3
#: family, protocol, extensions, states; then ports, addresses, interface and cookie of one socket.
QUESTION = struct.Struct("=BBBxI")
SOCKET = struct.Struct("!HH16s16s12s")
#: Where the socket's description lies in an answer.
SOCKET_AT = 4
#: All states but TIME_WAIT, CLOSE and LISTEN.
STANDING = 0xFFF & ~((1 << 6) | (1 << 7) | (1 << 10))


def open_socket() -> socket.socket:
    """A socket for `cut`, of the calling thread's network. Raises OSError where this kernel cannot abort connections."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    opened.bind((0, 0))
    nobody = SOCKET.pack(1, 1, b"", b"", b"\xff" * 12)
    code = _destroy(opened, nobody)
    if code not in (0, errno.ENOENT):
        raise OSError(code, f"this kernel does not abort connections for others: {os.strerror(code)}")
    return opened


def cut(diag: socket.socket, flow: Flow) -> int:
    """Abort the connections of a flow at the end where its packets arrive; how many."""
    there = [one for one in _standing(diag) if _is_of(one, flow)]
    return sum(_destroy(diag, one) == 0 for one in there)


def _standing(diag: socket.socket) -> list[bytes]:
    question = QUESTION.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, STANDING) + bytes(SOCKET.size)
    diag.sendto(HEADER.pack(HEADER.size + len(question), BY_FAMILY, REQUEST | DUMP, 1, 0) + question, (0, 0))
    found: list[bytes] = []
    while True:
        for kind, _, body in messages(diag.recv(1 << 17)):
            if kind in (DONE, NLMSG_ERROR):
                return found
            found.append(body[SOCKET_AT : SOCKET_AT + SOCKET.size])


def _is_of(described: bytes, flow: Flow) -> bool:
    """Flow's packets arrive here, so its source is the socket's far end."""
    here, far_port, address, far, _ = SOCKET.unpack(described)
    port = far_port if flow.answers else here
    return (port, address[:4], far[:4]) == (flow.port, socket.inet_aton(flow.dst), socket.inet_aton(flow.src))


def _destroy(diag: socket.socket, described: bytes) -> int:
    question = QUESTION.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, STANDING) + described
    diag.sendto(HEADER.pack(HEADER.size + len(question), DESTROY, REQUEST | ACK, 2, 0) + question, (0, 0))
    for kind, _, body in messages(diag.recv(1 << 16)):
        if kind == NLMSG_ERROR:
            return -int(struct.unpack_from("=i", body)[0])
    return errno.EIO
