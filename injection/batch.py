"""Changes of a network, compiled by pyroute2 ahead of time and sent as one message: what it compiles for milliseconds is
sent in a tenth of one, and by any thread.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection

from pyroute2 import IPBatch

from injection.netfilter import NLMSG_ERROR, messages

ANSWER_S = 5.0


class Batch:
    """What `say` says to a compiler, ready to be sent into the network of the calling thread; nothing is sent yet."""

    def __init__(self, say: Callable[[IPBatch], None]) -> None:
        compiler = IPBatch()
        say(compiler)
        self._requests = bytes(compiler.batch)
        compiler.close()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(ANSWER_S)

    def send(self, fine: Collection[int] = ()) -> None:
        """All changes, in order. Raises OSError with the kernel's first refusal, but for the codes that are `fine`."""
        left = {sequence for _, sequence, _ in messages(self._requests)}
        self._socket.send(self._requests)
        refusals = []
        while left:
            for kind, sequence, body in messages(self._socket.recv(1 << 16)):
                if kind == NLMSG_ERROR:
                    left.discard(sequence)
                    refusals.append(-int(struct.unpack_from("=i", body)[0]))
        for code in refusals:
            if code and code not in fine:
                raise OSError(code, f"the kernel refuses: {os.strerror(code)}")

    def ask(self, request: bytes) -> bytes:
        """The body of the answer to one request. Raises OSError with the kernel's refusal."""
        self._socket.send(request)
        for kind, _, body in messages(self._socket.recv(1 << 16)):
            if kind != NLMSG_ERROR:
                return body
            code = -int(struct.unpack_from("=i", body)[0])
            raise OSError(code, f"the kernel refuses: {os.strerror(code)}")
        raise OSError(errno.EIO, "the kernel answers nothing")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
