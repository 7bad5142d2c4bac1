"""A link carries only so many bytes a second, from its source to its destination, back, or each way.

In the virtual cluster the kernel does it at the sender; on the plain host the link's proxy does. Nothing stands in the path
until the fault fires. Of several on one link the last applied counts (on a proxy: the slowest).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from injection import link_hand, link_proof
from injection.company import Treatment
from injection.fault import Context, Measurement, Undo
from injection.link_hand import LinkHand
from injection.link_proof import Direction, Interface
from injection.proxy_client import Toxic

#: How long the probe waits for bytes to flow on the link, and how long it then counts them.
FLOW_WAIT_S = 5.0
WINDOW_S = 1.0
#: The rate seen may exceed the one asked by this factor: the burst allowance and the window's edges.
TOLERANCE = 1.3
#: On a proxy: a request counts from so many seconds' worth of bytes, and is looked for so long.
LEAST_S = 0.5
ANSWER_WAIT_S = 12.0
BYTES_PER_KB = 1000.0


@dataclass(frozen=True)
class Params:
    """`rate_bytes_per_s`: what each direction may carry, headers included in the virtual cluster, payload on a proxy.

    `interface`: the device by which it leaves, where that is not the usual one.
    """

    rate_bytes_per_s: Annotated[float, Field(ge=100, le=1e10, allow_inf_nan=False)]
    direction: Direction = "forward"
    interface: Interface = ""


class NetworkBandwidth:
    """HTB or a bandwidth toxic."""

    parameters = Params
    revert = staticmethod(link_hand.revert)
    gone = staticmethod(link_hand.gone)

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._link = ctx.link()
        self._hand: LinkHand

    def arm(self) -> None:
        """Open the socket in the sender's network, or the proxy's API; look that nothing is in the way."""
        rate, direction = self._params.rate_bytes_per_s, self._params.direction
        if self._ctx.backend == "proxy":
            kilobytes = {"rate": rate / BYTES_PER_KB}
            self._hand = Toxic(self._ctx.proxy_api, self._link.name, direction, "bandwidth", kilobytes)
            return
        from injection.shaping import Shaping  # netlink takes 0.1 s to load; a plain host never needs it

        self._hand = Shaping(self._link, link_proof.ways(direction), int(rate), self._params.interface)

    def undo(self) -> Undo:
        """Where the rules stand."""
        return self._hand.undo()

    def apply(self) -> dict[str, Any]:
        """Put them up and read them back."""
        return self._hand.go()

    def does(self) -> dict[str, Treatment]:
        """Narrow, each way."""
        return dict.fromkeys(link_proof.ways(self._params.direction), Treatment(rate_bytes_per_s=self._params.rate_bytes_per_s))

    def verify(self) -> Measurement:
        """Another process measures, by the kernel's counters of the link's TCP connections."""
        return link_proof.steadily(self._ctx, self._requests if self._ctx.backend == "proxy" else self._counters)

    def _counters(self) -> Measurement:
        each = [self._acknowledged(way) for way in link_proof.ways(self._params.direction)]
        measured = {f"{one.probe}: {name}": value for one in each for name, value in one.measured.items()}
        ok = all(one.ok for one in each)
        return each[0] if len(each) == 1 else Measurement(ok=ok, probe="TCP counters of the link", measured=measured)

    def _acknowledged(self, way: str) -> Measurement:
        """Bytes acknowledged to the sender. Where nothing flows: say so, and show at least the queue where the link leaves.

        One that was applied later on the same link is what counts: then that is measured, and this one stands behind it.
        """
        later = self._ctx.company.later(self._ctx.name, self._link, way).rate_bytes_per_s
        link, asked = self._link, later or self._params.rate_bytes_per_s
        forward = way == "forward"
        host = link.src_host if forward else link.dst_host
        ends = (link.src_address, link.dst_address) if forward else (link.dst_address, link.src_address)
        flow = {"host": host, "src": ends[0], "dst": ends[1], "port": link.dst_port, "answers": not forward}
        found = self._ctx.ask("link_rate", {**flow, "wait_s": FLOW_WAIT_S, "window_s": WINDOW_S})
        measured = {**found, "asked_rate_bytes_per_s": asked}
        if found["seen"]:
            slow = found["rate_bytes_per_s"] <= TOLERANCE * asked
            if later:
                return link_proof.judged(self._ctx, self.undo, {way: (slow, True, measured)}, "TCP counters of the link")
            return Measurement(ok=slow, probe="TCP counters of the link", measured=measured)
        name = self._params.interface or ("lo" if link.src_host == link.dst_host else "eth0")
        queue = self._ctx.ask("host_queue", {"host": host, "device": name})
        stands = queue["root_kind"] == "htb"
        return Measurement(ok=stands, probe="byte counter of the queue (nothing flowed)", measured={**measured, **queue})

    def _requests(self) -> Measurement:
        """Bytes of a request over the time its answer takes, for a proxy takes bytes in before it passes them on."""
        asked = self._params.rate_bytes_per_s
        enough = TOLERANCE * asked
        where = {"dst": self._link.dst_address, "port": self._link.dst_port}
        limits = {"least_bytes": asked * LEAST_S, "enough_bytes_per_s": enough, "wait_s": ANSWER_WAIT_S}
        found = self._ctx.ask("request_rate", {**where, **limits})
        slow = found["seen"] and found["rate_bytes_per_s"] <= enough
        return Measurement(ok=slow, probe="TCP counters of the dialler", measured={**found, "asked_rate_bytes_per_s": asked})
