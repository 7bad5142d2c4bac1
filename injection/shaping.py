"""One link slowed down by the kernel: an HTB tree on the sender's eth0, there only while the fault is in force.

Unclassified packets leave HTB at full speed (default 0), so the tree touches the one link that its filter names.
All functions act in the network of the calling thread.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute

DEVICE = "eth0"
#: The handle of our root; any other root is foreign and stays untouched.
ROOT = 0x51A70000
SLOW = ROOT | 1
PARENT_OF_ROOT = 0xFFFFFFFF
ETH_P_IP = 0x0800
#: Bytes that may leave at once: two full frames, the least with which HTB keeps its rate.
BURST_BYTES = 3028


class ForeignQueueError(RuntimeError):
    """A root queue that is not ours is in the way."""


@dataclass(frozen=True)
class Flow:
    """The packets concerned: IPv4 TCP from `src` to `dst`:`port`."""

    src: str
    dst: str
    port: int

    def keys(self) -> list[str]:
        """The u32 matches (value/mask+offset): addresses in the IP header, port in the TCP header behind it."""
        return [f"{_word(self.src)}/0xffffffff+12", f"{_word(self.dst)}/0xffffffff+16", f"0x{self.port:08x}/0x0000ffff+20"]


class Shaper:
    """The netlink socket and device index, opened ahead, so that slowing down costs three messages."""

    def __init__(self) -> None:
        self._route = IPRoute()
        found = self._route.link_lookup(ifname=DEVICE)
        if not found:
            self._route.close()
            raise LookupError(f"no device {DEVICE} in this network")
        self._index = int(found[0])

    def close(self) -> None:
        """Close the socket."""
        self._route.close()

    def root(self) -> tuple[str, int]:
        """Kind and handle of the root queue; handle 0 is the kernel's own default."""
        for queue in self._route.get_qdiscs(index=self._index):
            if queue["parent"] == PARENT_OF_ROOT:
                return str(queue.get_attr("TCA_KIND")), int(queue["handle"])
        return "none", 0

    def slow(self, flow: Flow, rate_bytes_per_s: int) -> None:
        """Put the tree up; the filter last, for it is what diverts the flow. Raises ForeignQueueError."""
        kind, handle = self.root()
        if handle:
            raise ForeignQueueError(f"{DEVICE} already has a root queue {kind} {handle >> 16:x}:")
        self._route.tc("add", "htb", self._index, handle=ROOT, default=0)
        rate = {"rate": rate_bytes_per_s, "ceil": rate_bytes_per_s, "burst": BURST_BYTES, "cburst": BURST_BYTES}
        self._route.tc("add-class", "htb", self._index, handle=SLOW, parent=ROOT, **rate)
        filter_by = {"protocol": ETH_P_IP, "target": SLOW, "keys": flow.keys()}
        self._route.tc("add-filter", "u32", self._index, parent=ROOT, prio=1, **filter_by)

    def restore(self) -> None:
        """Take our tree away, if it is there; never anyone else's."""
        kind, handle = self.root()
        if (kind, handle) == ("htb", ROOT):
            self._route.tc("del", index=self._index, handle=ROOT, parent=PARENT_OF_ROOT)

    def state(self) -> dict[str, Any]:
        """What the kernel says: root, rate of the slow class (bytes/s) and how many bytes it has let through."""
        kind, handle = self.root()
        found: dict[str, Any] = {"root_kind": kind, "root_handle": f"{handle >> 16:x}:", "ours": handle == ROOT}
        for entry in self._route.get_classes(index=self._index):
            if entry["handle"] == SLOW:
                options = entry.get_attr("TCA_OPTIONS").get_attr("TCA_HTB_PARMS")
                counted = entry.get_attr("TCA_STATS2").get_attr("TCA_STATS_BASIC")
                found |= {"class_rate_bytes_per_s": int(options["rate"]), "class_bytes": int(counted["bytes"])}
        return found


def _word(address: str) -> str:
    return f"0x{struct.unpack('!I', socket.inet_aton(address))[0]:08x}"
