"""A link's connections are cut by a TCP reset, those that stand and those dialled while it lasts. By the link's proxy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from injection.fault import Ask, Context, Measurement, Undo
from injection.proxy_client import ProxyClient, remove_toxic, toxic_gone, toxic_undo

TOXIC = "reset"
#: How much longer than asked a connection may live.
GRACE_S = 0.25
#: How long the probe looks for a connection that is cut.
FLOW_WAIT_S = 10.0


@dataclass(frozen=True)
class Params:
    """`reset_after_ms`: how long a connection lives before it is reset."""

    reset_after_ms: Annotated[float, Field(ge=0, le=86_400_000, allow_inf_nan=False)] = 0.0


class NetworkReset:
    """A reset_peer toxic."""

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
        self._proxy.add(TOXIC, "reset_peer", {"timeout": self._params.reset_after_ms})
        return {"toxics": ", ".join(self._proxy.toxic_names() or [])}

    def verify(self) -> Measurement:
        """Another process looks for connections that outlive the reset, and for at least one that it ended."""
        age_s = self._params.reset_after_ms / 1000 + GRACE_S
        where = {"dst": self._link.dst_address, "port": self._link.dst_port}
        found = self._ctx.ask("link_survivors", {**where, "age_s": age_s, "wait_s": 2 * age_s + FLOW_WAIT_S})
        cut = found["ended_count"] + found["resets_count"] > 0
        return Measurement(ok=cut and not found["survivors_count"], probe="TCP connections of the link", measured=found)

    @staticmethod
    def revert(undo: Undo) -> None:
        """Take the toxic off."""
        remove_toxic(undo)

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:  # noqa: ARG004 - the proxy is another process already
        """The proxy no longer lists it."""
        return toxic_gone(undo)
