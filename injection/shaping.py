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

from pyroute2 import IPRoute, NetlinkError

from injection import namespace
from injection.fault import Ask, Measurement, RefusedError, StuckError, Undo
from injection.netfilter import Flow
from injection.target import LiveLink

#: The handle of our root; any other root is foreign and stays untouched.
ROOT = 0x51A70000
PARENT_OF_ROOT = 0xFFFFFFFF
ETH_P_IP = 0x0800
#: Bytes that may leave at once: two full frames, the least with which HTB keeps its rate.
BURST_BYTES = 3028
#: The rank of the first filter; a later one gets a lower number and is asked before.
FIRST_RANK = 0x8000
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
    """The netlink socket and device index, opened ahead, so that slowing down costs four messages. Raises LookupError."""

    def __init__(self, name: str) -> None:
        self._route = IPRoute()
        found = self._route.link_lookup(ifname=name)
        if not found:
            self._route.close()
            raise LookupError(f"no device {name} in this network")
        self._name, self._index = name, int(found[0])

    def close(self) -> None:
        """Close the socket."""
        self._route.close()

    def check(self) -> None:
        """Refuse where a root queue is in the way that is not ours."""
        kind, handle = self._root()
        if handle not in (0, ROOT):
            raise RefusedError(f"{self._name} already has a root queue {kind} {handle >> 16:x}:")

    def slow(self, flow: Flow, rate_bytes_per_s: int, minor: int) -> None:
        """Put up root (if there is none) and class, and last the filter, for it diverts the flow. Raises RefusedError."""
        self.check()
        with suppress_code(errno.EEXIST):
            self._route.tc("add", "htb", self._index, handle=ROOT, default=0)
        rate = {"rate": rate_bytes_per_s, "ceil": rate_bytes_per_s, "burst": BURST_BYTES, "cburst": BURST_BYTES}
        self._route.tc("add-class", "htb", self._index, handle=ROOT | minor, parent=ROOT, **rate)
        rank = min([FIRST_RANK, *(rank for rank, _ in self._filters())]) - 1
        filter_by = {"protocol": ETH_P_IP, "target": ROOT | minor, "keys": keys(flow)}
        self._route.tc("add-filter", "u32", self._index, parent=ROOT, prio=rank, **filter_by)

    def restore(self, minor: int) -> None:
        """Take filter and class of that number away, and the root with the last of them; never anyone else's."""
        if self._root()[1] != ROOT:
            return
        for rank, target in self._filters():
            if target == ROOT | minor:
                self._route.tc("del-filter", index=self._index, parent=ROOT, info=rank << 16 | socket.htons(ETH_P_IP))
        with suppress_code(errno.ENOENT):
            self._route.tc("del-class", index=self._index, handle=ROOT | minor, parent=ROOT)
        if not self._filters():
            with suppress_code(errno.ENOENT):
                self._route.tc("del", index=self._index, handle=ROOT, parent=PARENT_OF_ROOT)

    def state(self, minor: int) -> dict[str, Any]:
        """What the kernel says: root, rate of the slow class (bytes/s) and how many bytes it has let through."""
        kind, handle = self._root()
        found: dict[str, Any] = {"root_kind": kind, "root_handle": f"{handle >> 16:x}:", "ours": handle == ROOT}
        for entry in self._route.get_classes(index=self._index):
            if entry["handle"] == ROOT | minor:
                options = entry.get_attr("TCA_OPTIONS").get_attr("TCA_HTB_PARMS")
                counted = entry.get_attr("TCA_STATS2").get_attr("TCA_STATS_BASIC")
                found |= {"class_rate_bytes_per_s": int(options["rate"]), "class_bytes": int(counted["bytes"])}
        return found

    def _root(self) -> tuple[str, int]:
        """Kind and handle of the root queue; handle 0 is the kernel's own default."""
        for queue in self._route.get_qdiscs(index=self._index):
            if queue["parent"] == PARENT_OF_ROOT:
                return str(queue.get_attr("TCA_KIND")), int(queue["handle"])
        return "none", 0

    def _filters(self) -> list[tuple[int, int]]:
        """Rank and target of each filter on our root."""
        found = []
        for entry in self._route.get_filters(index=self._index, parent=ROOT):
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


class Shaping:
    """What a fault puts up at the sending end of each direction. Made in the thread that uses it. Raises RefusedError."""

    def __init__(self, link: LiveLink, ways: tuple[str, ...], rate_bytes_per_s: int) -> None:
        there = Flow(link.src_address, link.dst_address, link.dst_port)
        leaving = {"forward": (link.src_host, there), "backward": (link.dst_host, there.backwards())}
        self._rate, self._device = rate_bytes_per_s, device(link)
        self._ends = []
        for host, flow in (leaving[way] for way in ways):
            namespace.enter(host)
            shaper = Shaper(self._device)
            shaper.check()
            self._ends.append((host, flow, shaper, random.randrange(1, 0xFFFF)))  # noqa: S311 - not a secret

    def undo(self) -> Undo:
        """Which classes to take away where."""
        ends = [[host, self._device, minor] for host, _, _, minor in self._ends]
        return {"means": "shaping", "ends": ends}

    def go(self) -> dict[str, Any]:
        """Put the rules up and read them back."""
        for _, flow, shaper, minor in self._ends:
            shaper.slow(flow, self._rate, minor)
        return {host: shaper.state(minor) for host, _, shaper, minor in self._ends}


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
