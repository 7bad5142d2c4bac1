"""A link is cut without a word: its packets vanish where they arrive, in one direction or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from injection import link_hand, link_proof
from injection.fault import Context, Measurement, Undo
from injection.link_proof import Direction, Interface
from injection.packets_client import Packets

#: Datagrams sent for proof, how far apart, and how long they are waited for.
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
        self._hand = Packets(self._link, self._params.direction, "drop", interface=self._params.interface)

    def undo(self) -> Undo:
        """Which process holds the rules."""
        return self._hand.undo()

    def apply(self) -> dict[str, Any]:
        """Put them up."""
        return self._hand.go()

    def verify(self) -> Measurement:
        """Another process sends datagrams along the link, and none arrives."""
        found = link_proof.echo(self._ctx, self._params.direction, COUNT, GAP_S, WAIT_S)
        silent = all(figures["received_count"] == 0 for figures in found.values())
        return Measurement(ok=silent, probe="datagrams along the link", measured=link_proof.flat(found))
