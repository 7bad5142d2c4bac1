"""A process may grow by so much and no more: RLIMIT_AS, from outside.

The next allocation beyond it fails with the very error an exhausted machine gives (ENOMEM); the process lives.

The limit follows from the size at the moment, which nobody knows when undoing is put on disk. So it carries a mark instead: the
kernel counts pages, and the bytes of the limit below a page say whose it is.
"""

from __future__ import annotations

import resource
import secrets
from typing import Any

from injection import procfs
from injection.fault import Ask, Context, Measurement, RefusedError, StuckError, Undo
from injection.memory.pressure import Pressure
from injection.procfs import Identity

PAGE = resource.getpagesize()


class AddressSpace:
    """prlimit on the living process."""

    def __init__(self, ctx: Context, pressure: Pressure) -> None:
        self._ctx = ctx
        self._pressure = pressure
        self._target = ctx.process()
        self._mark = 1 + secrets.randbelow(PAGE - 1)
        self._ours = 0

    def arm(self) -> None:
        """Try the right to do it, by reading."""
        if self._pressure.ramp_bytes_per_s or self._pressure.ballast_bytes:
            raise RefusedError("ramp_mib_per_s, ballast_mib: a limit of the address space is there at once and takes nothing")
        try:
            resource.prlimit(self._target.who.pid, resource.RLIMIT_AS)
        except PermissionError as error:
            raise RefusedError(f"not permitted to limit the memory of {self._target.component}") from error

    def undo(self) -> Undo:
        """Prior soft limit in bytes (-1 = unlimited), and the mark of ours."""
        pid = self._target.who.pid
        prior, _ = resource.prlimit(pid, resource.RLIMIT_AS)
        return {"pid": pid, "start_ticks": self._target.who.start_ticks, "prior_bytes": prior, "mark_bytes": self._mark}

    def apply(self) -> dict[str, Any]:
        """Lower the soft limit to the size now and the headroom; the hard one stays, or it could not be raised again.

        A limit that is there already is refused: of two, whichever is undone first would leave the other's behind.
        """
        self._target.check()
        pid = self._target.who.pid
        prior, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        if prior != resource.RLIM_INFINITY:
            raise RefusedError(f"{self._target.component} already has a limit of {prior} bytes")
        self._ours = (procfs.vm_size_bytes(pid) + self._pressure.headroom_bytes) // PAGE * PAGE + self._mark
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
            if _marked(now, undo):
                resource.prlimit(undo["pid"], resource.RLIMIT_AS, (undo["prior_bytes"], hard))
        except ProcessLookupError:
            return
        except (PermissionError, ValueError) as error:
            raise StuckError(f"the memory limit of process {undo['pid']} could not be restored: {error}") from error

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process reads a limit that is not ours (or finds the process dead)."""
        found = ask("address_space", {"pid": undo["pid"], "start_ticks": undo["start_ticks"]})
        free = not found["alive"] or not _marked(found["limit_bytes"], undo)
        return Measurement(ok=free, probe="address space and its limit", measured=found)


def _marked(limit: int, undo: Undo) -> bool:
    """Whether a limit is the one of this record."""
    return limit != resource.RLIM_INFINITY and limit % PAGE == undo["mark_bytes"]
