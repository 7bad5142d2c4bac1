"""Packets of a link vanish where they arrive, so that their sender is not told: each by chance, or in bursts.

A packet is what the kernel hands on as one: in the virtual cluster a segment, over loopback up to 64 KiB. Losses of several
faults on one link are independent of one another: of what one lets pass the next loses its part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from injection import link_hand, link_proof
from injection.company import Treatment
from injection.fault import Context, Measurement, Undo
from injection.link_proof import LONGEST_S, MOST, Direction, Interface
from injection.packets_client import Packets

#: Enough datagrams for so many losses are sent for proof; so far apart, waited for so long.
LOSSES = 20
GAP_S, WAIT_S = 0.0005, 1.0
#: What is seen may differ from what is asked by so many standard deviations: one time in a million.
DEVIATIONS = 5.0


@dataclass(frozen=True)
class Params:
    """`loss_ratio`: the part that is lost. `burst_packets`: mean length of a run of losses; 0 = each packet for itself.

    `interface`: only what arrives by this device.
    """

    loss_ratio: Annotated[float, Field(ge=0.005, le=1)]
    burst_packets: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    direction: Direction = "forward"
    interface: Interface = ""

    def __post_init__(self) -> None:
        """Refuse bursts that the part lost leaves no room for."""
        if self.burst_packets and not 1 <= self.burst_packets >= self.loss_ratio / (1 - min(self.loss_ratio, 0.9999)):
            raise ValueError("burst_packets: at least 1 and at least loss_ratio / (1 - loss_ratio)")


class NetworkLoss:
    """A rule with a chance; for bursts a queue that remembers."""

    parameters = Params
    revert = staticmethod(link_hand.revert)
    gone = staticmethod(link_hand.gone)

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._link = ctx.link()

    def arm(self) -> None:
        """Have the rules ready; see that the link lets pass what will be counted."""
        link_proof.passes(self._ctx, self._params.direction)
        fate = {"loss_ratio": self._params.loss_ratio}
        if self._params.burst_packets:
            fate["burst_packets"] = self._params.burst_packets
        act = "hold" if self._params.burst_packets else "lose"
        self._hand = Packets(self._ctx, self._params.direction, act, fate, self._params.interface)

    def undo(self) -> Undo:
        """Which process holds the rules."""
        return self._hand.undo()

    def apply(self) -> dict[str, Any]:
        """Put them up."""
        return self._hand.go()

    def does(self) -> dict[str, Treatment]:
        """A part is lost, each way."""
        lost = Treatment(loss_ratio=self._params.loss_ratio, burst_packets=max(1.0, self._params.burst_packets))
        return dict.fromkeys(link_proof.ways(self._params.direction), lost)

    def verify(self) -> Measurement:
        """Another process sends numbered datagrams along the link and counts at the receiver which are missing."""
        return link_proof.steadily(self._ctx, self._measure)

    def _measure(self) -> Measurement:
        found = {way: self._count(way, own) for way, own in self.does().items()}
        return link_proof.judged(self._ctx, self.undo, found, "numbered datagrams along the link")

    def _count(self, way: str, own: Treatment) -> tuple[bool, bool, dict[str, Any]]:
        """As many are missing as all losses together ask for; hidden where too many must be sent to tell them apart."""
        others = link_proof.others(self._ctx, way)
        all_ = own.beside(others)
        telling = sent_to_tell(all_, others)
        count = min(MOST, max(math.ceil(LOSSES * all_.burst_packets / all_.loss_ratio), telling))
        figures = link_proof.echo(self._ctx, way, count, GAP_S, WAIT_S + min(all_.longest_s, LONGEST_S))
        part = 1.0 if link_proof.silent(others) else all_.loss_ratio
        lost = count - figures["received_count"]
        right = lost > 0 and abs(lost - count * part) <= spread(all_, count) + 1
        asked = {"asked_loss_ratio": own.loss_ratio, "expected_loss_ratio": round(part, 6)}
        hidden = telling > MOST or link_proof.silent(others)
        return right, hidden, {**figures, **asked, **link_proof.company(others)}


def spread(all_: Treatment, count: int) -> float:
    """How far the number of losses may be off, of `count` datagrams."""
    return DEVIATIONS * math.sqrt(count * all_.loss_ratio * (1 - all_.loss_ratio) * (2 * all_.burst_packets - 1))


def sent_to_tell(all_: Treatment, others: Treatment) -> int:
    """Datagrams after which the losses of all cannot be those of the others alone; `MOST` and one where that takes more."""
    more = all_.loss_ratio - others.loss_ratio
    if others.loss_ratio <= 0:
        return 1
    if more <= 0:
        return MOST + 1
    both = spread(all_, 1) + spread(others, 1)
    return min(MOST + 1, math.ceil((both / more) ** 2))
