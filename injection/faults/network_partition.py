"""A link is cut without a word: its packets vanish where they arrive, in one direction or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from injection import link_hand, link_proof
from injection.company import Treatment
from injection.fault import Context, Measurement, Undo
from injection.link_proof import LONGEST_S, MOST, Direction, Interface
from injection.packets_client import Packets

#: Datagrams sent for proof (more where others lose some), how far apart, and how long they are waited for.
COUNT, GAP_S, WAIT_S = 5, 0.02, 0.5


@dataclass(frozen=True)
class Params:
    """`direction`: forward is from the link's source to its destination; `interface`: only what arrives by this device."""

    direction: Direction = "both"
    interface: Interface = ""


class NetworkPartition:
    """A rule that drops."""

    parameters = Params
    revert = staticmethod(link_hand.revert)
    gone = staticmethod(link_hand.gone)

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._link = ctx.link()

    def arm(self) -> None:
        """Have the rules ready; see that the link lets pass what will be missed."""
        link_proof.passes(self._ctx, self._params.direction)
        self._hand = Packets(self._ctx, self._params.direction, "drop", interface=self._params.interface)

    def undo(self) -> Undo:
        """Which process holds the rules."""
        return self._hand.undo()

    def apply(self) -> dict[str, Any]:
        """Put them up."""
        return self._hand.go()

    def does(self) -> dict[str, Treatment]:
        """Nothing passes."""
        return dict.fromkeys(link_proof.ways(self._params.direction), Treatment(loss_ratio=1.0))

    def verify(self) -> Measurement:
        """Another process sends datagrams along the link, and none arrives."""
        return link_proof.steadily(self._ctx, self._measure)

    def _measure(self) -> Measurement:
        found = {way: self._listen(way) for way in self.does()}
        return link_proof.judged(self._ctx, self.undo, found, "datagrams along the link")

    def _listen(self, way: str) -> tuple[bool, bool, dict[str, Any]]:
        """As many as would not all be lost without the cut; hidden where none would come all the same."""
        others = link_proof.others(self._ctx, way)
        count = min(MOST, max(COUNT, link_proof.enough(others)))
        gap_s = min(GAP_S, 1.0 / count)
        figures = link_proof.echo(self._ctx, way, count, gap_s, WAIT_S + min(others.longest_s, LONGEST_S))
        silent = figures["received_count"] == 0
        return silent, link_proof.silent(others), {**figures, **link_proof.company(others)}
