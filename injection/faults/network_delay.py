"""Packets of a link arrive late, held where they arrive; in order, unless netem does it, which shuffles them by jitter.

Delays of several faults on one link add up; with netem a second one is refused. A proxy delays bytes, not packets: it knows no
delay of the handshake, no correlation and no normal distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from injection import link_hand, link_proof
from injection.company import Treatment
from injection.fault import Context, Measurement, Undo
from injection.link_hand import LinkHand
from injection.link_proof import LONGEST_S, Direction, Interface
from injection.packets_client import Packets
from injection.proxy_client import Toxic

#: The probe wants to see this part of the shortest delay asked.
SEEN_PART = 0.8
#: Normally distributed delays may be shorter than the mean by so many standard deviations.
DEVIATIONS = 3.0
#: Datagrams sent for proof (more where others lose some), how far apart, and how much longer than the delay they may take.
COUNT, GAP_S, GRACE_S = 10, 0.01, 1.0
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
        return max(self.delay_ms - self._off_ms, 0.0) / 1000

    @property
    def longest_s(self) -> float:
        """The longest delay to be expected, in seconds."""
        return (self.delay_ms + self._off_ms) / 1000

    @property
    def _off_ms(self) -> float:
        return self.jitter_ms * (DEVIATIONS if self.distribution == "normal" else 1.0)


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

    def does(self) -> dict[str, Treatment]:
        """Late, each way."""
        late = Treatment(shortest_s=self._params.shortest_s, longest_s=self._params.longest_s)
        return dict.fromkeys(link_proof.ways(self._params.direction), late)

    def verify(self) -> Measurement:
        """Another process sends datagrams along the link; on a proxy it watches how long the dialler waits for an answer."""
        return link_proof.steadily(self._ctx, self._somebody_waits if self._ctx.backend == "proxy" else self._measure)

    def _measure(self) -> Measurement:
        found = {way: self._late(way) for way in self.does()}
        return link_proof.judged(self._ctx, self.undo, found, "datagrams along the link")

    def _late(self, way: str) -> tuple[bool, bool, dict[str, Any]]:
        """Whoever comes is later than the others alone would make it; nobody where all together take too long to wait."""
        others = link_proof.others(self._ctx, way)
        least_s = others.shortest_s + SEEN_PART * self._params.shortest_s
        wait_s = min(self._params.delay_ms / 1000 + others.longest_s + GRACE_S, LONGEST_S)
        unsteady = others.longest_s - others.shortest_s >= SEEN_PART * self._params.shortest_s  # theirs might be ours as well
        hidden = link_proof.silent(others) or (unsteady and others.longest_s > 0)
        count = COUNT if link_proof.silent(others) else max(COUNT, link_proof.enough(others))
        figures = link_proof.echo(self._ctx, way, count, min(GAP_S, 1.0 / count), wait_s)
        came = figures["received_count"] > 0
        late = figures["least_ms"] >= 1000 * least_s if came else link_proof.silent(others) or wait_s == LONGEST_S
        asked = {"asked_delay_ms": self._params.delay_ms, "waited_s": wait_s}
        return late, hidden, {**figures, **asked, **link_proof.company(others)}

    def _somebody_waits(self) -> Measurement:
        """For an answer, which all delays of both directions hold up."""
        link, own = self._link, sum(does.shortest_s for does in self.does().values())
        others = sum(link_proof.others(self._ctx, way).shortest_s for way in link_proof.ways("both"))
        seen_s = others + SEEN_PART * own if others else SEEN_PART * self._params.shortest_s
        where = {"dst": link.dst_address, "port": link.dst_port, "enough_s": seen_s}
        found = self._ctx.ask("link_wait", {**where, "wait_s": own + others + FLOW_WAIT_S})
        measured = {**found, "asked_delay_ms": self._params.delay_ms, "others_delay_ms": 1000 * others}
        return Measurement(ok=found["longest_wait_s"] >= seen_s, probe="TCP timestamps of the link", measured=measured)

    def _packets(self) -> LinkHand:
        params = self._params
        times = {"delay_s": params.delay_ms / 1000, "jitter_s": params.jitter_ms / 1000}
        fate = {**times, "correlation_ratio": params.correlation_ratio, "distribution": params.distribution}
        return Packets(self._ctx, params.direction, "hold", fate, params.interface)

    def _netem(self) -> LinkHand:
        from injection.netem import Netem  # netlink takes 0.1 s to load; most kinds of delay never need it

        params = self._params
        return Netem(self._link, params.direction, params.delay_ms, params.jitter_ms, params.interface)

    def _toxic(self) -> LinkHand:
        attributes = {"latency": self._params.delay_ms, "jitter": self._params.jitter_ms}
        return Toxic(self._ctx.proxy_api, self._link.name, self._params.direction, "latency", attributes)
