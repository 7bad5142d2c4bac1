"""The job's disk is full up to a percentage, and stays so: removing what is there frees nothing, and what gets free is taken.

Files that were there when it began keep their blocks until it is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from injection.child import Child, end
from injection.disk import free_bytes, own_disk
from injection.fault import Ask, Context, Measurement, Undo

MIB = 1 << 20
#: Achieved against asked, in points of the disk; besides, a file system keeps a few blocks that nobody can have.
TOLERANCE_POINTS = 0.5
#: How long the probe waits for a ramp.
FILL_WAIT_S = 10.0


@dataclass(frozen=True)
class Params:
    """`percent` of the disk is in use, but `reserve_mib` are left in any case; `ramp_mib_per_s` is how fast (0 = at once)."""

    percent: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
    reserve_mib: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = 0.0
    ramp_mib_per_s: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = 0.0


class DiskFill:
    """A file without a name in another process."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._path = ctx.path().path
        self._filler: Child | None = None

    def arm(self) -> None:
        """Start the filler. Raises RefusedError where the path is not a disk of the job's own."""
        own_disk(self._path)
        self._filler = Child("filler", self._path)

    def undo(self) -> Undo:
        """Whom to end."""
        assert self._filler is not None
        return {"holder": self._filler.key, "path": str(self._path)}

    def apply(self) -> dict[str, Any]:
        """Have it filled; at once means before this returns."""
        assert self._filler is not None
        reserve, rate = int(self._params.reserve_mib * MIB), self._params.ramp_mib_per_s * MIB
        held = self._filler.tell(self._params.percent, reserve, rate)
        return {"held_bytes": int(held), "free_bytes": free_bytes(self._path)[1]}

    def verify(self) -> Measurement:
        """Another process reads the file system's own book, and the filler's."""
        size, _ = free_bytes(self._path)
        most = max(self._params.reserve_mib * MIB, size * (1 - (self._params.percent - TOLERANCE_POINTS) / 100))
        found = self._ctx.ask("disk_space", {**self.undo(), "most_free_bytes": most, "wait_s": FILL_WAIT_S})
        measured = {**found, "asked_percent": self._params.percent}
        return Measurement(ok=found["free_bytes"] <= most, probe="free blocks of the disk", measured=measured)

    @staticmethod
    def revert(undo: Undo) -> None:
        """End the filler; the kernel frees its file."""
        end(undo["holder"])

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process finds nothing that it holds."""
        found = ask("disk_space", {**undo, "most_free_bytes": 0, "wait_s": 0.0})
        return Measurement(ok=not found["held_bytes"], probe="free blocks of the disk", measured=found)
