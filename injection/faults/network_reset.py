"""A link's connections are cut by a TCP reset, those that stand and those dialled while it lasts.

Done to the packets of one direction: whoever sent them sees a reset, the one to whom they went an aborted connection. So who
dials is refused; but where it is done to the answers alone (backward), the server is reset, and the dialler waits in vain. A
proxy resets those that stand when something flows on them in that direction, idle ones not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from injection import link_hand, link_proof
from injection.company import Treatment
from injection.fault import Context, Measurement, Undo
from injection.link_hand import LinkHand
from injection.link_proof import Direction
from injection.packets_client import Packets
from injection.proxy_client import Toxic

#: How much longer than asked a connection may live.
GRACE_S = 0.25
#: How long the probe looks for a connection that is cut, on a proxy; and waits for an answer when it dials itself.
FLOW_WAIT_S = 10.0
DIAL_S = 2.0
#: How often it dials where others lose what it sends.
DIALS = 6


@dataclass(frozen=True)
class Params:
    """`reset_after_ms`: how long a connection lives before it is reset; `direction` as of other faults."""

    reset_after_ms: Annotated[float, Field(ge=0, le=86_400_000, allow_inf_nan=False)] = 0.0
    direction: Direction = "forward"


class NetworkReset:
    """A rule that answers with resets, and the kernel's own abort; or a reset_peer toxic."""

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
        if self._ctx.backend == "proxy":
            timeout = {"timeout": self._params.reset_after_ms}
            self._hand = Toxic(self._ctx.proxy_api, self._link.name, self._params.direction, "reset_peer", timeout)
        else:
            self._hand = Packets(self._ctx, self._params.direction, "reset")

    def undo(self) -> Undo:
        """What the means needs to be ended."""
        return self._hand.undo()

    def apply(self) -> dict[str, Any]:
        """Switch it in."""
        return self._hand.go()

    def does(self) -> dict[str, Treatment]:
        """No packet passes; a proxy lets datagrams alone, and has none."""
        resets = Treatment() if self._ctx.backend == "proxy" else Treatment(loss_ratio=1.0)
        return dict.fromkeys(link_proof.ways(self._params.direction), resets)

    def verify(self) -> Measurement:
        """Another process finds none that stands and comes to nothing when it dials; on a proxy it watches connections end."""
        return link_proof.steadily(self._ctx, self._none_grows_old if self._ctx.backend == "proxy" else self._dial)

    def _dial(self) -> Measurement:
        """Where others lose a part it dials again; where they let nothing pass no reset is seen, but none stands either."""
        beside = [link_proof.others(self._ctx, way) for way in link_proof.ways("both")]
        hidden = any(link_proof.silent(one) for one in beside)
        asked = {"path": link_proof.path(self._ctx), "wait_s": DIAL_S + min(sum(one.longest_s for one in beside), FLOW_WAIT_S)}
        expected = "timed out" if self._params.direction == "backward" else ConnectionRefusedError.__name__
        for _ in range(DIALS if any(one.loss_ratio for one in beside) and not hidden else 1):
            found = self._ctx.ask("link_dial", asked)
            if found["outcome"] != "timed out":
                break
        right = found["outcome"] in ({expected, "timed out"} if hidden else {expected}) and not found["standing_count"]
        probe = "a connection dialled, TCP connections of the link"
        return link_proof.judged(self._ctx, self.undo, {"both": (right, hidden, found)}, probe)

    def _none_grows_old(self) -> Measurement:
        late_s = sum(link_proof.others(self._ctx, way).longest_s for way in link_proof.ways("both"))
        age_s = self._params.reset_after_ms / 1000 + late_s + GRACE_S
        where = {"dst": self._link.dst_address, "port": self._link.dst_port}
        found = self._ctx.ask("link_survivors", {**where, "age_s": age_s, "wait_s": 2 * age_s + FLOW_WAIT_S})
        cut = found["ended_count"] + found["resets_count"] > 0
        return Measurement(ok=cut and not found["survivors_count"], probe="TCP connections of the link", measured=found)
