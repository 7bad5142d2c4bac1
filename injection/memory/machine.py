"""The machine itself has little memory left, but for a reserve; the holder is the first that the kernel would kill."""

from __future__ import annotations

from typing import Any

from injection.child import Child, end
from injection.fault import Ask, Context, Measurement, RefusedError, Undo
from injection.measure_memory import available_memory
from injection.memory.pressure import MIB, Pressure, close_to

#: What is always left: the larger of this and this part of all memory.
RESERVE_BYTES = 512 * MIB
RESERVE_PART = 0.05
#: By the machine's own book shared memory must have grown by this part of what the holder has: others use little of that kind.
SEEN_PART = 0.9
#: How long memory may take to be filled.
FILL_WAIT_S = 12.0
KILL_FIRST = 1000


class Machine:
    """Ballast outside any group of ours."""

    def __init__(self, ctx: Context, pressure: Pressure) -> None:
        self._ctx = ctx
        self._pressure = pressure
        self._holder: Child | None = None
        self._shared = self._wanted = 0

    def arm(self) -> None:
        """Start the holder. Raises RefusedError for a headroom that would endanger the machine."""
        reserve = max(RESERVE_BYTES, int(RESERVE_PART * available_memory()["total_bytes"]))
        if self._pressure.headroom_bytes < reserve:
            raise RefusedError(f"headroom_mib must be at least {reserve // MIB}: the machine's reserve is not touched")
        if self._pressure.ballast_bytes:
            raise RefusedError("ballast_mib belongs to where: group; here it follows from headroom_mib")
        self._holder = Child("ballast", KILL_FIRST)

    def undo(self) -> Undo:
        """Whom to end."""
        assert self._holder is not None
        return {"holder": self._holder.key}

    def apply(self) -> dict[str, Any]:
        """Have everything above the headroom taken."""
        assert self._holder is not None
        before = available_memory()
        self._shared = before["shared_bytes"]
        self._wanted = before["available_bytes"] - self._pressure.headroom_bytes
        if self._wanted <= 0:
            raise RefusedError(f"only {before['available_bytes'] // MIB} MiB are available, the headroom asked for is more")
        self._holder.go(self._wanted, self._pressure.ramp_bytes_per_s)
        return {**before, "wanted_bytes": self._wanted}

    def verify(self) -> Measurement:
        """Another process looks what the holder has and what the machine has left."""
        rate = self._pressure.ramp_bytes_per_s
        asked = min(self._wanted, rate * FILL_WAIT_S / 2) if rate else self._wanted
        found = self._ctx.ask("machine_memory", {**self.undo(), "least_bytes": asked, "wait_s": FILL_WAIT_S})
        grown = found["shared_bytes"] - self._shared
        held = close_to(found["held_bytes"], asked) or (rate > 0 and found["held_bytes"] > asked)
        ok = held and grown >= SEEN_PART * found["held_bytes"]
        measured = {**found, "asked_bytes": asked, "grown_bytes": grown}
        return Measurement(ok=ok, probe="memory of the machine", measured=measured)

    @staticmethod
    def revert(undo: Undo) -> None:
        """End the holder; the kernel frees what it had."""
        end(undo["holder"])

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process finds it gone."""
        found = ask("machine_memory", {**undo, "least_bytes": 0, "wait_s": 0.0})
        return Measurement(ok=not found["held_bytes"], probe="memory of the machine", measured=found)
