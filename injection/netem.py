"""The kernel's own network emulator, at the receiver: what arrives of a link is led through a device of ours that delays it.

An `ifb` device with a netem queue, and a filter on the ingress of the receiving device that redirects the link's packets there.
A packet is led aside once, so a second one on the same link is refused. All functions act in the network of the calling thread
unless they name one.
"""

from __future__ import annotations

import errno
import secrets
import socket
from typing import Any
from zlib import crc32

from pyroute2 import IPRoute, NetlinkError

from injection import link_proof, namespace
from injection.fault import Ask, Measurement, RefusedError, StuckError, Undo
from injection.netfilter import Flow, present
from injection.shaping import ETH_P_IP, device, keys, suppress_code
from injection.target import LiveLink

INGRESS = 0xFFFF0000
INGRESS_PARENT = 0xFFFFFFF1
ROOT = 0x00010000
#: Packets that may wait at once; beyond, netem drops them, a fault that nobody asked for.
HELD_AT_MOST = 100_000
MICROSECONDS_PER_MS = 1000
RANKS = 0x7FFF


class Netem:
    """Ready at the arriving end of each direction, without effect until `go`. Made in the thread that uses it."""

    def __init__(self, link: LiveLink, direction: str, delay_ms: float, jitter_ms: float, interface: str = "") -> None:
        there = Flow(link.src_address, link.dst_address, link.dst_port)
        arriving = {"forward": (link.dst_host, there), "backward": (link.src_host, there.backwards())}
        times = {"delay": round(delay_ms * MICROSECONDS_PER_MS), "jitter": round(jitter_ms * MICROSECONDS_PER_MS)}
        self._queue = {**times, "limit": HELD_AT_MOST}
        self._device = interface or device(link)
        self._ends = []
        for host, flow in (arriving[way] for way in link_proof.ways(direction)):
            namespace.enter(host)
            present(self._device)
            self._ends.append((host, flow, IPRoute(), f"ifb{secrets.token_hex(4)}", _rank(flow)))

    def undo(self) -> Undo:
        """Which device and filter to take away where."""
        return {"means": "netem", "ends": [[host, self._device, name, rank] for host, _, _, name, rank in self._ends]}

    def go(self) -> dict[str, Any]:
        """Device and queue first, the filter last, for it is what diverts the link."""
        for _, flow, route, name, rank in self._ends:
            _divert(route, self._device, flow, name, rank, self._queue)
        return {host: f"{name} behind {self._device}" for host, _, _, name, _ in self._ends}


def _divert(route: IPRoute, arriving: str, flow: Flow, name: str, rank: int, queue: dict[str, int]) -> None:
    index = route.link_lookup(ifname=arriving)[0]
    with suppress_code(errno.EEXIST):
        route.tc("add", "ingress", index, INGRESS)
    if rank in _ranks(route, index):
        raise RefusedError(f"netem holds packets of {flow.src} to {flow.dst} already, and would hold them once only")
    route.link("add", ifname=name, kind="ifb")
    aside = route.link_lookup(ifname=name)[0]
    route.tc("add", "netem", aside, ROOT, **queue)
    route.link("set", index=aside, state="up")
    lead = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": aside}
    filter_by = {"protocol": ETH_P_IP, "target": ROOT, "keys": keys(flow), "action": lead}
    route.tc("add-filter", "u32", index, parent=INGRESS, prio=rank, **filter_by)


def _rank(flow: Flow) -> int:
    """The number of a flow's filter: the flow itself, so that a second one is known by it."""
    return 1 + crc32(" ".join(keys(flow)).encode()) % RANKS


def _ranks(route: IPRoute, index: int) -> set[int]:
    return {int(entry["info"]) >> 16 for entry in route.get_filters(index=index, parent=INGRESS)}


def end_netem(undo: Undo) -> None:
    """Take away what an undo record names, filter first. Raises StuckError."""
    for host, arriving, name, rank in undo["ends"]:
        if not namespace.exists(host):
            continue
        try:
            namespace.within(host, lambda end=(arriving, name, rank): _restore(*end))  # type: ignore[misc]
        except (OSError, NetlinkError) as error:
            raise StuckError(f"{name} of {host} could not be removed: {error}") from error


def _restore(arriving: str, name: str, rank: int) -> None:
    """Only where our device stands is the filter ours: it comes after the device and goes before."""
    with IPRoute() as route:
        index = route.link_lookup(ifname=arriving)[0]
        for aside in route.link_lookup(ifname=name):
            if rank in _ranks(route, index):
                route.tc("del-filter", index=index, parent=INGRESS, info=rank << 16 | socket.htons(ETH_P_IP))
            route.link("del", index=aside)
        if not _ranks(route, index):
            with suppress_code(errno.EINVAL, errno.ENOENT):
                route.tc("del", "ingress", index, INGRESS, parent=INGRESS_PARENT)


def netem_gone(undo: Undo, ask: Ask) -> Measurement:
    """Another process finds no such device."""
    found = {name: ask("device", {"host": host, "name": name})["stands"] for host, _, name, _ in undo["ends"]}
    return Measurement(ok=not any(found.values()), probe="devices of the network", measured=found)
