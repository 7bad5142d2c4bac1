"""Packets of a link arrive late, held where they arrive; in order, unless netem does it, which shuffles them by jitter.

Delays of several faults on one link add up; with netem a second one is refused. A proxy delays bytes, not packets: it knows no
delay of the handshake, no correlation and no normal distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from injection import link_hand, link_proof
from injection.fault import Context, Measurement, Undo
from injection.link_hand import LinkHand
from injection.link_proof import Direction, Interface
from injection.packets_client import Packets
from injection.proxy_client import Toxic

#: The probe wants to see this part of the shortest delay asked.
SEEN_PART = 0.8
#: Normally distributed delays may be shorter than the mean by so many standard deviations.
DEVIATIONS = 3.0
#: Datagrams sent for proof, how far apart, and how much longer than the delay they are waited for; none longer than the last.
COUNT, GAP_S, GRACE_S, LONGEST_S = 10, 0.01, 1.0, 10.0
#: On a proxy: how much longer than the delay the probe looks for somebody who waits.
FLOW_WAIT_S = 10.0


@dataclass(frozen=True)
class Params:
    """`delay_ms` one way, plus or minus `jitter_ms` (uniform) or with it as standard deviation (normal), never below zero.

    `correlation_ratio` is that of consecutive packets; `direction` forward is from the link's source to its destination;
    `interface`: only what arrives there by this device.
    """

    delay_ms: Annotated[float, Field(gt=0, le=86_400_000, allow_inf_nan=False)]
    jitter_ms: Annotated[float, Field(ge=0, le=86_400_000, allow_inf_nan=False)] = 0.0
    correlation_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distribution: Literal["uniform", "normal"] = "uniform"
    direction: Direction = "forward"
    interface: Interface = ""

    @property
    def shortest_s(self) -> float:
        """The shortest delay to be expected, in seconds."""
        below = self.jitter_ms * (DEVIATIONS if self.distribution == "normal" else 1.0)
        return max(self.delay_ms - below, 0.0) / 1000


class NetworkDelay:
    """A queue of packets at the receiver, the kernel's netem there, or a latency toxic."""

    parameters = Params
    revert = staticmethod(link_hand.revert)
    gone = staticmethod(link_hand.gone)

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._link = ctx.link()
        self._hand: LinkHand

    def arm(self) -> None:
        """Have the means ready."""
        arm = {"proxy": self._toxic, "netem": self._netem, "nfqueue": self._packets}
        self._hand = arm[self._ctx.backend]()

    def undo(self) -> Undo:
        """What the means needs to be ended."""
        return self._hand.undo()

    def apply(self) -> dict[str, Any]:
        """Switch it in."""
        return self._hand.go()

    def verify(self) -> Measurement:
        """Another process sends datagrams along the link; on a proxy it watches how long the dialler waits for an answer."""
        asked = {"asked_delay_ms": self._params.delay_ms}
        if self._ctx.backend == "proxy":
            late, found = self._somebody_waits()
            return Measurement(ok=late, probe="TCP timestamps of the link", measured={**found, **asked})
        wait_s = min(self._params.delay_ms / 1000 + GRACE_S, LONGEST_S)
        found = link_proof.echo(self._ctx, self._params.direction, COUNT, GAP_S, wait_s)
        least_ms = 1000 * min(SEEN_PART * self._params.shortest_s, wait_s)
        late = all(figures.get("least_ms", 1000 * wait_s) >= least_ms for figures in found.values())
        came = all(figures["received_count"] for figures in found.values()) or wait_s == LONGEST_S
        measured = {**link_proof.flat(found), **asked, "waited_s": wait_s}
        return Measurement(ok=late and came, probe="datagrams along the link", measured=measured)

    def _somebody_waits(self) -> tuple[bool, dict[str, Any]]:
        seen_s, link = SEEN_PART * self._params.shortest_s, self._link
        where = {"dst": link.dst_address, "port": link.dst_port, "enough_s": seen_s}
        found = self._ctx.ask("link_wait", {**where, "wait_s": self._params.shortest_s + FLOW_WAIT_S})
        return found["longest_wait_s"] >= seen_s, found

    def _packets(self) -> LinkHand:
        params = self._params
        times = {"delay_s": params.delay_ms / 1000, "jitter_s": params.jitter_ms / 1000}
        fate = {**times, "correlation_ratio": params.correlation_ratio, "distribution": params.distribution}
        return Packets(self._link, params.direction, "hold", fate, params.interface)

    def _netem(self) -> LinkHand:
        from injection.netem import Netem  # netlink takes 0.1 s to load; most kinds of delay never need it

        params = self._params
        return Netem(self._link, params.direction, params.delay_ms, params.jitter_ms, params.interface)

    def _toxic(self) -> LinkHand:
        attributes = {"latency": self._params.delay_ms, "jitter": self._params.jitter_ms}
        return Toxic(self._ctx.proxy_api, self._link.name, self._params.direction, "latency", attributes)
