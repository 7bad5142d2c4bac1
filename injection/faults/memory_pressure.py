"""Memory runs out: of one process, of a group with one process in it, of the machine, or of a shared device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from injection.fault import Ask, Context, Measurement, RefusedError, Undo
from injection.lost import Watched
from injection.memory.address_space import AddressSpace
from injection.memory.device import Device
from injection.memory.group import OwnGroup
from injection.memory.machine import Machine
from injection.memory.pressure import MIB, Pressure

WAYS: dict[str, Any] = {"process": AddressSpace, "group": OwnGroup, "machine": Machine, "device": Device}
Mib = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


@dataclass(frozen=True)
class Params:
    """`headroom_mib` is what is left in the end, `ramp_mib_per_s` how fast it comes to that (0 = at once).

    `where`: process: the next allocation beyond it fails (address space, RLIMIT_AS); group: the kernel kills the process
    (a memory group of its own, filled with `ballast_mib` besides); group-or-process: the first where groups can be made, else
    the second, and the state read back says which; machine: less is available to everybody; device: a co-tenant has the rest.
    """

    headroom_mib: Mib
    where: Literal["process", "group", "group-or-process", "machine", "device"] = "process"
    ramp_mib_per_s: Mib = 0.0
    ballast_mib: Mib = 0.0


class MemoryPressure:
    """One of the ways; the undo record names it."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        pressure = Pressure(int(params.headroom_mib * MIB), params.ramp_mib_per_s * MIB, int(params.ballast_mib * MIB))
        self._ways = [(name, WAYS[name](ctx, pressure)) for name in params.where.split("-or-")]

    def arm(self) -> None:
        """Prepare the first way that can be gone. Raises RefusedError of the last."""
        while True:
            try:
                self._ways[0][1].arm()
            except RefusedError:
                if len(self._ways) == 1:
                    raise
                del self._ways[0]
            else:
                return

    def undo(self) -> Undo:
        """The way, and what it needs."""
        name, way = self._ways[0]
        return {"where": name, **way.undo()}

    def apply(self) -> dict[str, Any]:
        """As the way does; tells which it is."""
        name, way = self._ways[0]
        return {"where": name, **way.apply()}

    def verify(self) -> Measurement:
        """As the way does."""
        found: Measurement = self._ways[0][1].verify()
        return found

    def lost(self) -> str:
        """As the way says, where it watches."""
        way = self._ways[0][1]
        return way.lost() if isinstance(way, Watched) else ""

    @staticmethod
    def revert(undo: Undo) -> None:
        """As the way does."""
        WAYS[undo["where"]].revert(undo)

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """As the way does."""
        found: Measurement = WAYS[undo["where"]].gone(undo, ask)
        return found
