"""A device has little memory left, because a co-tenant has the rest: on the CPU a range of the arena's file, on CUDA torch's.

The co-tenant asks nobody: it takes what is free and keeps it, as a stranger's process on a shared card does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from injection.child import Child, end
from injection.fault import Ask, Context, Measurement, NotYetError, RefusedError, Undo
from injection.memory.pressure import TOLERANCE, Pressure

#: How long the proof waits for the co-tenant to have what is free.
FILL_WAIT_S = 10.0


class Device:
    """A co-tenant of the device of one train or rollout worker."""

    def __init__(self, ctx: Context, pressure: Pressure) -> None:
        self._ctx = ctx
        self._pressure = pressure
        self._target = ctx.process()
        self._tenant: Child | None = None
        self._file = ""
        self._ordinal = -1

    def arm(self) -> None:
        """Start the co-tenant; it takes nothing yet. Raises RefusedError where the target has no device that can be shared.

        The file comes with the worker's engine, some time after the worker has registered.
        """
        if self._pressure.ballast_bytes:
            raise RefusedError("ballast_mib belongs to where: group; here it follows from headroom_mib")
        config = json.loads((self._ctx.job / "config.json").read_text())
        rank = int(self._target.component.lstrip("abcdefghijklmnopqrstuvwxyz") or 0)
        if config["device"] == "cuda":
            self._ordinal = rank
            self._tenant = Child("cuda_tenant", rank, packages=True)
            return
        if not config["colocated"]:
            raise RefusedError(f"{self._target.component} has no device: on the CPU a job has one only when it is colocated")
        folder = self._ctx.job / (config["arena_path"] or "arena")
        self._file = str(folder / f"node{rank}")
        if not Path(self._file).exists():
            raise NotYetError(f"{self._target.component} has no device: there is no file {self._file}")
        self._tenant = Child("tenant", self._file)

    def undo(self) -> Undo:
        """Whom to end."""
        assert self._tenant is not None
        return {"holder": self._tenant.key, "file": self._file, "ordinal": self._ordinal}

    def apply(self) -> dict[str, Any]:
        """Have what is free above the headroom taken; at once means before this returns."""
        assert self._tenant is not None
        self._target.check()
        held = self._tenant.tell(self._pressure.headroom_bytes, self._pressure.ramp_bytes_per_s)
        return {"held_bytes": int(held)}

    def verify(self) -> Measurement:
        """Another process looks what the co-tenant has and what is free, by the kernel's or the driver's book."""
        enough = self._pressure.headroom_bytes + TOLERANCE * self._pressure.headroom_bytes
        found = self._ctx.ask("device_memory", {**self.undo(), "most_bytes": enough, "wait_s": FILL_WAIT_S})
        full = found["free_bytes"] <= enough or self._pressure.ramp_bytes_per_s > 0
        measured = {**found, "asked_free_bytes": self._pressure.headroom_bytes}
        return Measurement(ok=full and found["held_bytes"] > 0, probe="memory of the device", measured=measured)

    @staticmethod
    def revert(undo: Undo) -> None:
        """End the co-tenant; the kernel (or the driver) frees what it had."""
        end(undo["holder"])

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process finds nothing that it holds."""
        found = ask("device_memory", {**undo, "most_bytes": 0, "wait_s": 0.0})
        return Measurement(ok=not found["held_bytes"], probe="memory of the device", measured=found)
