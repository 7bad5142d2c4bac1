"""A process in a memory group of its own: it may grow by so much, then the kernel kills it (SIGKILL, a line in its log).

What it has already stays charged where it was, so the group's limit is the headroom, plus a ballast that can be filled
little by little. The ballast is memory of a file without a name that nobody has mapped: it counts for the group and for no
process, so when the group is full the kernel's choice falls on the target.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from injection.cgroup import Group, dissolve, group_of
from injection.child import Child, end
from injection.fault import Ask, Context, Measurement, RefusedError, Undo
from injection.memory.pressure import Pressure, close_to

#: Version -> file of the limit, file that keeps it from swapping instead.
LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}
SWAP = {1: "memory.swappiness", 2: "memory.swap.max"}
#: How long the proof waits for a ballast that grows.
RAMP_WAIT_S = 10.0


class OwnGroup:
    """A group with a limit, made when the fault is applied and gone when it is reverted. Needs the right to make groups."""

    def __init__(self, ctx: Context, pressure: Pressure) -> None:
        self._ctx = ctx
        self._pressure = pressure
        self._target = ctx.process()
        self._home: Group | None = None
        self._group: Group | None = None
        self._ballast: Child | None = None

    def arm(self) -> None:
        """Choose the group and start whoever fills it. Raises RefusedError where no group can be made."""
        self._home = group_of(self._target.who.pid, "memory")
        if self._home is None:
            raise RefusedError("this machine has no memory controller for groups of processes")
        if self._home.ours:
            raise RefusedError(f"{self._target.component} is in a memory group of the hands already")
        self._group = self._home.fresh()
        refusal = why_not(self._group)
        if refusal:
            raise RefusedError(refusal)
        self._ballast = Child("ballast", 0)

    def undo(self) -> Undo:
        """Both groups, and who fills ours. A group is the machine's: it outlives the virtual cluster."""
        assert self._home is not None
        assert self._group is not None
        assert self._ballast is not None
        where = {"group": str(self._group.path), "home": str(self._home.path), "version": self._group.version}
        who = {"pid": self._target.who.pid, "start_ticks": self._target.who.start_ticks}
        return {**where, **who, "ballast": self._ballast.key, "outlives": True}

    def apply(self) -> dict[str, Any]:
        """Make the group, set its limit, move the target in, begin to fill."""
        assert self._group is not None
        assert self._ballast is not None
        self._target.check()
        if (now := group_of(self._target.who.pid, "memory")) is not None and now.ours:
            raise RefusedError(f"{self._target.component} is in a memory group of the hands already")
        limit = self._pressure.headroom_bytes + self._pressure.ballast_bytes
        self._group.path.mkdir()
        with suppress(OSError):  # a kernel without swap accounting cannot swap a group
            self._group.write(SWAP[self._group.version], 0)
        self._group.write(LIMIT[self._group.version], limit)
        self._group.take(self._ballast.who.pid)
        self._group.take(self._target.who.pid)
        self._ballast.go(self._pressure.ballast_bytes, self._pressure.ramp_bytes_per_s)
        return {"limit_bytes": limit, "processes_count": len(self._group.pids())}

    def verify(self) -> Measurement:
        """Another process looks what the group holds and who is in it, or that the kernel has killed the target there."""
        assert self._ballast is not None
        wanted, rate = self._pressure.ballast_bytes, self._pressure.ramp_bytes_per_s
        wait_s = min(wanted / rate if rate else 0.0, RAMP_WAIT_S)
        asked = min(wanted, rate * wait_s) if rate else wanted
        patience = {"least_bytes": asked, "wait_s": wait_s + 1.0}
        found = self._ctx.ask("memory_group", {**self.undo(), "holder": self._ballast.key, **patience})
        killed = found["oom_kills_count"] > 0 and not found["inside"]  # a headroom of next to nothing takes the ballast as well
        held = close_to(found["held_bytes"], asked) or (rate > 0 and found["held_bytes"] > asked)
        return Measurement(
            ok=killed or (found["inside"] and held), probe="memory of the group", measured={**found, "asked_bytes": asked}
        )

    def lost(self) -> str:
        """Whether the target lives with more room than was asked: the ballast is gone, or it is in another group."""
        assert self._ballast is not None
        assert self._group is not None
        there = self._target.who.pid in self._group.pids()
        if not self._target.who.alive():
            return ""
        if not there:
            return f"somebody else took {self._target.component} out of its memory group"
        gone = self._pressure.ballast_bytes and not self._ballast.who.alive()
        return f"what filled its memory group (process {self._ballast.who.pid}) ended" if gone else ""

    @staticmethod
    def revert(undo: Undo) -> None:
        """End the ballast, move the target back, remove the group."""
        end(undo["ballast"])
        home = Group(Path(undo["home"]), undo["version"])
        refuge = home if home.path.is_dir() else Group(Path(undo["group"]).parent, undo["version"])
        dissolve(Group(Path(undo["group"]), undo["version"]), refuge)

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process finds no such group, and nobody who fills it."""
        found = ask("memory_group", {**undo, "holder": undo["ballast"]})
        return Measurement(ok=not found["exists"] and not found["held_bytes"], probe="memory of the group", measured=found)


def why_not(group: Group) -> str:
    """Why such a group cannot be made, by making and removing it; empty = it can."""
    try:
        group.path.mkdir()
    except OSError as error:
        return f"no memory group can be made at {group.path.parent}: {error.strerror}"
    limited = (group.path / LIMIT[group.version]).exists()
    group.path.rmdir()
    return "" if limited else f"a group at {group.path.parent} has no memory limit (the controller is not handed down)"
