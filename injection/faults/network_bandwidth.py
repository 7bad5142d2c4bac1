"""A link carries only so many bytes a second, from its source to its destination.

In the virtual cluster the kernel does it (HTB on the sender's eth0, one class, one filter for this link); on the plain host
the link's proxy does. Nothing stands in the path until the fault fires.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from injection.fault import Ask, Context, Measurement, RefusedError, StuckError, Undo
from injection.proxy_client import ProxyClient, remove_toxic, toxic_gone, toxic_undo

#: How long the probe waits for bytes to flow on the link, and how long it then counts them.
FLOW_WAIT_S = 5.0
WINDOW_S = 1.0
#: The rate seen may exceed the one asked by this factor: the burst allowance and the window's edges.
TOLERANCE = 1.3
#: On a proxy: a request counts from so many seconds' worth of bytes, and is looked for so long.
LEAST_S = 0.5
ANSWER_WAIT_S = 12.0
TOXIC = "rate"
BYTES_PER_KB = 1000.0


@dataclass(frozen=True)
class Params:
    """`rate_bytes_per_s`: what the link may carry, headers included in the virtual cluster, payload on a proxy."""

    rate_bytes_per_s: Annotated[float, Field(ge=100, le=1e10, allow_inf_nan=False)]


class NetworkBandwidth:
    """HTB or a bandwidth toxic."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._link = ctx.link()
        self._hand: Any = None

    def arm(self) -> None:
        """Open the socket in the sender's network, or the proxy's API; look that nothing is in the way."""
        if self._ctx.backend == "proxy":
            self._hand = ProxyClient(self._ctx.proxy_api, self._link.name)
            self._hand.proxy()
            return
        from injection import namespace, shaping  # netlink takes 0.1 s to load; a plain host never needs it

        namespace.enter(self._link.src_host)
        self._hand = shaping.Shaper()
        kind, handle = self._hand.root()
        if handle:
            raise RefusedError(f"eth0 of {self._link.src_host} already has a root queue {kind} {handle >> 16:x}:")

    def undo(self) -> Undo:
        """Where the rule stands, for either backend."""
        if self._ctx.backend == "proxy":
            return toxic_undo(self._ctx.proxy_api, self._link.name, TOXIC)
        return {"backend": "kernel", "host": self._link.src_host}

    def apply(self) -> dict[str, Any]:
        """Put the rule up and read it back."""
        if self._ctx.backend == "proxy":
            self._hand.add(TOXIC, "bandwidth", {"rate": self._params.rate_bytes_per_s / BYTES_PER_KB})
            return {"toxics": ", ".join(self._hand.toxic_names() or [])}
        from injection import shaping  # loaded by arm

        flow = shaping.Flow(self._link.src_address, self._link.dst_address, self._link.dst_port)
        self._hand.slow(flow, int(self._params.rate_bytes_per_s))
        state: dict[str, Any] = self._hand.state()
        return state

    def verify(self) -> Measurement:
        """Another process measures, by the kernel's counters of the link's TCP connections."""
        return self._requests() if self._ctx.backend == "proxy" else self._acknowledged()

    def _acknowledged(self) -> Measurement:
        """Bytes acknowledged to the sender. Where nothing flows: say so, and show at least the queue where the link leaves."""
        link, asked = self._link, self._params.rate_bytes_per_s
        flow = {"host": link.src_host, "src": link.src_address, "dst": link.dst_address, "port": link.dst_port}
        found = self._ctx.ask("link_rate", {**flow, "wait_s": FLOW_WAIT_S, "window_s": WINDOW_S})
        measured = {**found, "asked_rate_bytes_per_s": asked}
        if found["seen"]:
            slow = found["rate_bytes_per_s"] <= TOLERANCE * asked
            return Measurement(ok=slow, probe="TCP counters of the link", measured=measured)
        queue = self._ctx.ask("host_queue", {"host": link.src_host})
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

    @staticmethod
    def revert(undo: Undo) -> None:
        """Take our rule away; never another's."""
        if undo["backend"] == "proxy":
            remove_toxic(undo)
            return
        from injection import namespace, shaping  # a watchdog loads it only when it must

        if not namespace.exists(undo["host"]):
            return
        try:
            namespace.within(undo["host"], lambda: shaping.Shaper().restore())
        except OSError as error:
            raise StuckError(f"the queue on eth0 of {undo['host']} could not be removed: {error}") from error

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process finds no such queue; or no such toxic."""
        if undo["backend"] == "proxy":
            return toxic_gone(undo)
        found = ask("host_queue", {"host": undo["host"]})
        return Measurement(ok=found["root_kind"] != "htb", probe="root queue of the sender", measured=found)
