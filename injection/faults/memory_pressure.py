"""A process runs out of memory: its address space may grow by so much and no more (RLIMIT_AS), from outside.

The next allocation beyond it fails with the very error an exhausted machine gives (ENOMEM); the process lives.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from injection import procfs
from injection.fault import Ask, Context, Measurement, RefusedError, StuckError, Undo
from injection.procfs import Identity

MIB = 1 << 20


@dataclass(frozen=True)
class Params:
    """`headroom_mib`: how much the process may still grow, in MiB of address space."""

    headroom_mib: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class MemoryPressure:
    """prlimit on the living process."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._target = ctx.process()
        self._ours = 0

    def arm(self) -> None:
        """Try the right to do it, by reading."""
        try:
            resource.prlimit(self._target.who.pid, resource.RLIMIT_AS)
        except PermissionError as error:
            raise RefusedError(f"not permitted to limit the memory of {self._target.component}") from error

    def undo(self) -> Undo:
        """Prior soft limit, and the one that will be ours (size now + headroom), in bytes; -1 = unlimited."""
        pid = self._target.who.pid
        prior, _ = resource.prlimit(pid, resource.RLIMIT_AS)
        self._ours = procfs.vm_size_bytes(pid) + int(self._params.headroom_mib * MIB)
        return {"pid": pid, "start_ticks": self._target.who.start_ticks, "prior_bytes": prior, "ours_bytes": self._ours}

    def apply(self) -> dict[str, Any]:
        """Lower the soft limit; the hard one stays, or it could not be raised again."""
        self._target.check()
        pid = self._target.who.pid
        prior, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        if prior != resource.RLIM_INFINITY and prior <= self._ours:
            raise RefusedError(f"{self._target.component} already has a tighter limit of {prior} bytes")
        resource.prlimit(pid, resource.RLIMIT_AS, (self._ours, hard))
        return {"limit_bytes": resource.prlimit(pid, resource.RLIMIT_AS)[0]}

    def verify(self) -> Measurement:
        """Another process reads the limit as the kernel prints it, and that the process has not outgrown it."""
        who = self._target.who
        found = self._ctx.ask("address_space", {"pid": who.pid, "start_ticks": who.start_ticks})
        held = found["alive"] and found["limit_bytes"] == self._ours and found["vm_size_bytes"] <= self._ours
        headroom = {"headroom_bytes": found["limit_bytes"] - found["vm_size_bytes"]} if found["alive"] else {}
        return Measurement(ok=held, probe="address space and its limit", measured={**found, **headroom})

    @staticmethod
    def revert(undo: Undo) -> None:
        """Put the prior soft limit back, if the one in force is ours."""
        if not Identity(undo["pid"], undo["start_ticks"]).alive():
            return
        try:
            now, hard = resource.prlimit(undo["pid"], resource.RLIMIT_AS)
            if now == undo["ours_bytes"]:
                resource.prlimit(undo["pid"], resource.RLIMIT_AS, (undo["prior_bytes"], hard))
        except ProcessLookupError:
            return
        except (PermissionError, ValueError) as error:
            raise StuckError(f"the memory limit of process {undo['pid']} could not be restored: {error}") from error

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process reads a limit that is not ours (or finds the process dead)."""
        found = ask("address_space", {"pid": undo["pid"], "start_ticks": undo["start_ticks"]})
        free = not found["alive"] or found["limit_bytes"] != undo["ours_bytes"]
        return Measurement(ok=free, probe="address space and its limit", measured=found)
