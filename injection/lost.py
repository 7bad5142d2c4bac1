"""An effect that goes before its time: somebody else woke the process, or the kernel took what filled the memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

#: How often a fault in force is looked at; one that has lost its effect is believed at the second look.
LOOK_S = 0.2


@runtime_checkable
class Watched(Protocol):
    """A fault whose effect may end without it; one that a helper keeps in force is watched by that helper's life besides."""

    def lost(self) -> str:
        """Why the effect has gone, as one clause, from then on; empty while it is there, and where the target is gone."""


def await_loss(fault: Watched, over: Callable[[], bool]) -> str:
    """Look at a fault in force until it has lost its effect, and say why; empty when it is over. Costs a read or two a look."""
    before = ""
    while not over():
        now = fault.lost()
        if now and before:
            return now
        before = now
        time.sleep(LOOK_S)
    return ""
