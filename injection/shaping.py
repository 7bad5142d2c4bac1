"""Links slowed down by the kernel: an HTB tree on the sender's device, a class and a filter for each, there only while needed.

Unclassified packets leave HTB at full speed (default 0), so the tree touches the links that its filters name and no other. Of
several on one link the last applied counts; when it goes, the one before counts again. All functions act in the network of the
calling thread.
"""

from __future__ import annotations

import errno
import random
import socket
import struct
from contextlib import suppress
from typing import Any

from pyroute2 import IPBatch, IPRoute, NetlinkError

from injection import namespace
from injection.batch import Batch
from injection.fault import Ask, Measurement, RefusedError, StuckError, Undo
from injection.netfilter import HEADER, REQUEST, Flow, attributes
from injection.target import LiveLink

#: The handle of our root; any other root is foreign and stays untouched.
ROOT = 0x51A70000
PARENT_OF_ROOT = 0xFFFFFFFF
ETH_P_IP = 0x0800
#: Bytes that may leave at once: two full frames, the least with which HTB keeps its rate.
BURST_BYTES = 3028
#: A filter of rank 0 is given one by the kernel: a lower number than all others have, so that the last is asked first.
FOREMOST = 0
#: Asking for one class, with the answer sent to whoever asks; how it is described, and where the rate stands in that.
GET_CLASS, ECHO = 42, 0x08
CLASS = struct.Struct("=BxxxiIII")
OPTIONS, PARAMETERS, RATE64, RATE_AT = 2, 1, 6, 8
LOOPBACK, OUTSIDE = "lo", "eth0"


def device(link: LiveLink) -> str:
    """The device over which a link's packets leave and arrive."""
    return LOOPBACK if link.src_host == link.dst_host else OUTSIDE


def keys(flow: Flow) -> list[str]:
    """The u32 matches (value/mask+offset) of a flow: addresses in the IP header, port behind it, TCP and UDP alike."""
    port = f"0x{flow.port << 16:08x}/0xffff0000" if flow.answers else f"0x{flow.port:08x}/0x0000ffff"
    return [f"{_word(flow.src)}/0xffffffff+12", f"{_word(flow.dst)}/0xffffffff+16", f"{port}+20"]


def _word(address: str) -> str:
    return f"0x{struct.unpack('!I', socket.inet_aton(address))[0]:08x}"


class Shaper:
    """The sending queue of a device of the calling thread's network, as pyroute2 shows it. Raises RefusedError."""

    def __init__(self, name: str) -> None:
        self._route = IPRoute()
        found = self._route.link_lookup(ifname=name)
        if not found:
            self._route.close()
            raise RefusedError(f"there is no device {name} in this network")
        self._name, self.index = name, int(found[0])

    def close(self) -> None:
        """Close the socket."""
        self._route.close()

    def check(self) -> None:
        """Refuse where a root queue is in the way that is not ours."""
        kind, handle = self._root()
        if handle not in (0, ROOT):
            raise RefusedError(f"{self._name} already has a root queue {kind} {handle >> 16:x}:")

    def restore(self, minor: int) -> None:
        """Take filter and class of that number away, and the root with the last of them; never anyone else's."""
        if self._root()[1] != ROOT:
            return
        for rank, target in self._filters():
            if target == ROOT | minor:
                self._route.tc("del-filter", index=self.index, parent=ROOT, info=rank << 16 | socket.htons(ETH_P_IP))
        with suppress_code(errno.ENOENT):
            self._route.tc("del-class", index=self.index, handle=ROOT | minor, parent=ROOT)
        if not self._filters():
            with suppress_code(errno.ENOENT):
                self._route.tc("del", index=self.index, handle=ROOT, parent=PARENT_OF_ROOT)

    def _root(self) -> tuple[str, int]:
        """Kind and handle of the root queue; handle 0 is the kernel's own default."""
        for queue in self._route.get_qdiscs(index=self.index):
            if queue["parent"] == PARENT_OF_ROOT:
                return str(queue.get_attr("TCA_KIND")), int(queue["handle"])
        return "none", 0

    def _filters(self) -> list[tuple[int, int]]:
        """Rank and target of each filter on our root."""
        found = []
        for entry in self._route.get_filters(index=self.index, parent=ROOT):
            options = entry.get_attr("TCA_OPTIONS")
            target = options.get_attr("TCA_U32_CLASSID") if options else None
            if target:
                found.append((int(entry["info"]) >> 16, int(target)))
        return found


class suppress_code(suppress):  # noqa: N801 - reads as contextlib.suppress does
    """Pass over some refusals of the kernel, and no other."""

    def __init__(self, *codes: int) -> None:
        super().__init__(NetlinkError)
        self._codes = codes

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        """Only those codes."""
        return bool(super().__exit__(kind, error, trace)) and error is not None and error.code in self._codes


class Narrow:
    """One flow narrowed where it leaves: compiled for the calling thread's network, without effect until `go`."""

    def __init__(self, name: str, flow: Flow, rate_bytes_per_s: int) -> None:
        shaper = Shaper(name)
        shaper.check()
        shaper.close()
        self.minor = random.randrange(1, 0xFFFF)  # noqa: S311 - not a secret
        self._name, self._index = name, shaper.index
        self._batch = Batch(lambda compiler: self._compile(compiler, flow, rate_bytes_per_s))

    def _compile(self, compiler: IPBatch, flow: Flow, rate_bytes_per_s: int) -> None:
        """Root (there may be one) and class, and last the filter, for it diverts the flow."""
        target = ROOT | self.minor
        compiler.tc("add", "htb", self._index, handle=ROOT, default=0)
        rate = {"rate": rate_bytes_per_s, "ceil": rate_bytes_per_s, "burst": BURST_BYTES, "cburst": BURST_BYTES}
        compiler.tc("add-class", "htb", self._index, handle=target, parent=ROOT, **rate)
        filter_by = {"protocol": ETH_P_IP, "target": target, "keys": keys(flow)}
        compiler.tc("add-filter", "u32", self._index, parent=ROOT, prio=FOREMOST, **filter_by)

    def go(self) -> dict[str, Any]:
        """Put it up, and what the kernel says of the class. Raises RefusedError, as where another root came meanwhile."""
        try:
            self._batch.send(fine={errno.EEXIST})
            return {"class_rate_bytes_per_s": self._rate()}
        except OSError as error:
            raise RefusedError(f"{self._name} cannot be narrowed: {error.strerror}") from error

    def _rate(self) -> int:
        """The rate of our class, in bytes a second."""
        asked = CLASS.pack(socket.AF_UNSPEC, self._index, ROOT | self.minor, ROOT, 0)
        answer = self._batch.ask(HEADER.pack(HEADER.size + len(asked), GET_CLASS, REQUEST | ECHO, 1, 0) + asked)
        options = attributes(attributes(answer[CLASS.size :])[OPTIONS])
        wide = options.get(RATE64)
        return int(struct.unpack("=Q", wide)[0] if wide else struct.unpack_from("=I", options[PARAMETERS], RATE_AT)[0])


class Shaping:
    """What a fault puts up at the sending end of each direction. Raises RefusedError."""

    def __init__(self, link: LiveLink, ways: tuple[str, ...], rate_bytes_per_s: int, interface: str = "") -> None:
        there = Flow(link.src_address, link.dst_address, link.dst_port)
        leaving = {"forward": (link.src_host, there), "backward": (link.dst_host, there.backwards())}
        self._device = interface or device(link)
        self._ends = []
        for host, flow in (leaving[way] for way in ways):
            narrow = namespace.within(host, lambda flow=flow: Narrow(self._device, flow, rate_bytes_per_s))  # type: ignore[misc]
            self._ends.append((host, narrow))

    def undo(self) -> Undo:
        """Which classes to take away where."""
        return {"means": "shaping", "ends": [[host, self._device, narrow.minor] for host, narrow in self._ends]}

    def go(self) -> dict[str, Any]:
        """Put the rules up and read them back."""
        return {host: narrow.go() for host, narrow in self._ends}


def end_shaping(undo: Undo) -> None:
    """Take away what an undo record names. Raises StuckError."""

    def restore(name: str, minor: int) -> None:
        shaper = Shaper(name)
        try:
            shaper.restore(minor)
        finally:
            shaper.close()

    for host, name, minor in undo["ends"]:
        if not namespace.exists(host):
            continue
        try:
            namespace.within(host, lambda name=name, minor=minor: restore(name, minor))  # type: ignore[misc]
        except (OSError, NetlinkError) as error:
            raise StuckError(f"the queue on {name} of {host} could not be removed: {error}") from error


def shaping_gone(undo: Undo, ask: Ask) -> Measurement:
    """Another process finds no such class in the sender's queue."""
    found = {host: ask("host_queue", {"host": host, "device": name}) for host, name, _ in undo["ends"]}
    left = [host for host, _, minor in undo["ends"] if f"{ROOT | minor:x}" in found[host]["classes"].split()]
    measured = {f"{host}_{name}": value for host, figures in found.items() for name, value in figures.items()}
    return Measurement(ok=not left, probe="queue of the sender", measured=measured)
