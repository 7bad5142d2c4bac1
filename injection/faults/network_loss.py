"""Packets of a link vanish where they arrive, so that their sender is not told: each by chance, or in bursts.

A packet is what the kernel hands on as one: in the virtual cluster a segment, over loopback up to 64 KiB. Losses of several
faults on one link are independent of one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from injection import link_hand, link_proof
from injection.fault import Context, Measurement, Undo
from injection.link_proof import Direction, Interface
from injection.packets_client import Packets

#: Enough datagrams for so many losses are sent for proof, but no more than the last; so far apart, waited for so long.
LOSSES, MOST = 20, 4000
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
        self._hand = Packets(self._link, self._params.direction, act, fate, self._params.interface)

    def undo(self) -> Undo:
        """Which process holds the rules."""
        return self._hand.undo()

    def apply(self) -> dict[str, Any]:
        """Put them up."""
        return self._hand.go()

    def verify(self) -> Measurement:
        """Another process sends numbered datagrams along the link and counts at the receiver which are missing."""
        part, burst = self._params.loss_ratio, max(1.0, self._params.burst_packets)
        count = min(MOST, math.ceil(LOSSES * burst / part))
        found = link_proof.echo(self._ctx, self._params.direction, count, GAP_S, WAIT_S)
        off = DEVIATIONS * math.sqrt(count * part * (1 - part) * (2 * burst - 1)) + 1
        lost = [count - figures["received_count"] for figures in found.values()]
        right = all(one > 0 and abs(one - count * part) <= off for one in lost)
        measured = {**link_proof.flat(found), "asked_loss_ratio": part}
        return Measurement(ok=right, probe="numbered datagrams along the link", measured=measured)
