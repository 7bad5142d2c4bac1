"""A process must share its cores: others use a share of each, as exactly as if they had paid for it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from injection.child import Child, end
from injection.fault import Ask, Context, Measurement, Undo

#: How long the probe counts CPU time, and how often it does so before it gives up.
WINDOW_S = 0.3
TRIES = 10
#: How many processes may want the same core, the target among them, and the share is still to be had.
RIVALS = 2
#: Achieved against asked, in points of a core's time.
TOLERANCE_POINTS = 3.0
#: On a core that never idles and that others want as well, so much of what was asked is contention enough.
LEAST_PART = 0.5
IDLE_RATIO = 0.03


@dataclass(frozen=True)
class Params:
    """`share_percent`: what others use of each core the target may run on, whether or not it wants the core at the time."""

    share_percent: Annotated[float, Field(ge=1, le=98, allow_inf_nan=False)]


class CpuContention:
    """So many equal competitors a core that each gets its part by the scheduler's own fairness, each held to that part."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._target = ctx.process()
        self._children: list[Child] = []
        self._cores: set[int] = set()

    def arm(self) -> None:
        """Start them; they wait. Raises RefusedError where one does not come up."""
        share = self._params.share_percent / 100
        self._cores = os.sched_getaffinity(self._target.who.pid)
        count = competitors(share)
        self._children = [Child("spin", core, share / count) for core in sorted(self._cores) for _ in range(count)]

    def undo(self) -> Undo:
        """Whom to end."""
        return {"processes": [child.key for child in self._children]}

    def apply(self) -> dict[str, Any]:
        """Let them go."""
        self._target.check()
        for child in self._children:
            child.go()
        return {"processes_count": len(self._children), "cores_count": len(self._cores)}

    def verify(self) -> Measurement:
        """Another process counts the CPU time they get, by the kernel's book, until a window agrees with what was asked.

        Where none does, because others want the core too, it must at least have been full, and they have had their part.
        """
        asked = self._params.share_percent
        for _ in range(TRIES):
            found = self._ctx.ask("cpu_share", {**self.undo(), "window_s": WINDOW_S, "cores": sorted(self._cores)})
            share = 100 * found["cores_ratio"] / len(self._cores)
            alive = found["alive_count"] == len(self._children)
            exact = alive and abs(share - asked) <= TOLERANCE_POINTS
            if exact or not alive:
                break
        crowded = alive and LEAST_PART * asked <= share <= asked and found["idle_ratio"] <= IDLE_RATIO
        measured = {**found, "share_percent": round(share, 2), "asked_percent": asked, "crowded": crowded and not exact}
        return Measurement(ok=exact or crowded, probe="CPU time of the competitors", measured=measured)

    @staticmethod
    def revert(undo: Undo) -> None:
        """End each that still is that process."""
        for key in undo.get("processes", []):
            end(key)

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process finds none of them."""
        found = ask("cpu_share", {"processes": undo.get("processes", []), "window_s": 0.01})
        return Measurement(ok=found["alive_count"] == 0, probe="process table", measured=found)


def competitors(share: float) -> int:
    """How many equals must want a core that RIVALS others want, so that together they can have `share` of it; one to spare."""
    return math.ceil(RIVALS * share / (1 - share) - 1e-9) + 1
