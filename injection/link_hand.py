"""The hands that act on links, one for each means, and how what they did is undone: chosen by the record's own word for it."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from injection.fault import Ask, Measurement, Undo

#: Means -> module, what ends it, what finds it gone. Loaded only where needed: netlink takes 0.1 s, a plain host has none.
_MEANS = {
    "toxic": ("injection.proxy_client", "remove_toxic", "toxic_gone"),
    "packets": ("injection.packets_client", "end_packets", "packets_gone"),
    "shaping": ("injection.shaping", "end_shaping", "shaping_gone"),
    "netem": ("injection.netem", "end_netem", "netem_gone"),
}


class LinkHand(Protocol):
    """Ready to act, without effect until `go`."""

    def undo(self) -> Undo:
        """Enough to end it from another process; `means` says by which functions of this module's table."""

    def go(self) -> dict[str, Any]:
        """Act. Returns the state read back."""


def revert(undo: Undo) -> None:
    """End what a hand did; again and again without harm. Raises StuckError."""
    module, end, _ = _MEANS[undo["means"]]
    getattr(importlib.import_module(module), end)(undo)


def gone(undo: Undo, ask: Ask) -> Measurement:
    """Another process finds nothing left of it."""
    module, _, find = _MEANS[undo["means"]]
    found: Measurement = getattr(importlib.import_module(module), find)(undo, ask)
    return found
