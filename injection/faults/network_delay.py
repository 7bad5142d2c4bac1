"""Bytes on a link arrive late, on their way from its source to its destination. By the link's proxy only.

A proxy delays bytes, not packets: it knows no packet loss and no delay of the handshake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from injection.fault import Ask, Context, Measurement, Undo
from injection.proxy_client import ProxyClient, remove_toxic, toxic_gone, toxic_undo

TOXIC = "delay"
#: The probe wants to see somebody wait for this part of the shortest delay asked.
SEEN_PART = 0.8
#: How much longer than the delay the probe looks for somebody who waits.
FLOW_WAIT_S = 10.0


@dataclass(frozen=True)
class Params:
    """`delay_ms` one way, plus or minus `jitter_ms`, drawn uniformly for each piece of data."""

    delay_ms: Annotated[float, Field(gt=0, le=86_400_000, allow_inf_nan=False)]
    jitter_ms: Annotated[float, Field(ge=0, le=86_400_000, allow_inf_nan=False)] = 0.0


class NetworkDelay:
    """A latency toxic."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._link = ctx.link()
        self._proxy = ProxyClient(ctx.proxy_api, self._link.name)

    def arm(self) -> None:
        """See that the proxy stands."""
        self._proxy.proxy()

    def undo(self) -> Undo:
        """Where the toxic sits."""
        return dict(toxic_undo(self._ctx.proxy_api, self._link.name, TOXIC))

    def apply(self) -> dict[str, Any]:
        """Put the toxic on and read the list back."""
        self._proxy.add(TOXIC, "latency", {"latency": self._params.delay_ms, "jitter": self._params.jitter_ms})
        return {"toxics": ", ".join(self._proxy.toxic_names() or [])}

    def verify(self) -> Measurement:
        """Another process watches, by the kernel's counters, how long the link's dialler waits for an answer."""
        shortest_s = max(self._params.delay_ms - self._params.jitter_ms, 0.0) / 1000
        where = {"dst": self._link.dst_address, "port": self._link.dst_port}
        found = self._ctx.ask("link_wait", {**where, "enough_s": SEEN_PART * shortest_s, "wait_s": shortest_s + FLOW_WAIT_S})
        late = found["longest_wait_s"] >= SEEN_PART * shortest_s
        return Measurement(ok=late, probe="TCP timestamps of the link", measured={**found, "asked_delay_s": shortest_s})

    @staticmethod
    def revert(undo: Undo) -> None:
        """Take the toxic off."""
        remove_toxic(undo)

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:  # noqa: ARG004 - the proxy is another process already
        """The proxy no longer lists it."""
        return toxic_gone(undo)
