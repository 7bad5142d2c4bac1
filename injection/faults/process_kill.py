"""A process dies at once: SIGKILL through a pidfd, so that it can hit nobody else. It cannot be undone."""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from typing import Any

from injection import procfs
from injection.fault import Ask, Context, Measurement, RefusedError, Undo

#: How long a killed process may take to be seen dead (it frees its memory first).
DEATH_S = 2.0


@dataclass(frozen=True)
class Params:
    """None."""


class ProcessKill:
    """SIGKILL."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._target = ctx.process()
        self._pidfd = -1

    def arm(self) -> None:
        """Hold the process by a descriptor."""
        self._pidfd = procfs.open_pidfd(self._target.who)

    def undo(self) -> Undo:
        """Whom it hits; there is nothing to restore."""
        return {"pid": self._target.who.pid, "start_ticks": self._target.who.start_ticks}

    def apply(self) -> dict[str, Any]:
        """Kill, and wait until the last of its threads is dead: the first one may be a zombie before the others are."""
        self._target.check()
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        dead = select.select([self._pidfd], [], [], DEATH_S)[0]
        os.close(self._pidfd)
        if not dead:
            raise RefusedError(f"{self._target.component} is still alive {DEATH_S} s after SIGKILL")
        return {"alive": False}

    def verify(self) -> Measurement:
        """Another process looks for it."""
        found = self._ctx.ask("process_state", self.undo())
        return Measurement(ok=not found["alive"], probe="process table", measured=found)

    @staticmethod
    def revert(undo: Undo) -> None:
        """The dead stay dead."""

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Nothing is left in force: whatever carried the fault died with the process."""
        found = ask("process_state", undo)
        return Measurement(ok=True, probe="process table", measured={"alive": found["alive"]})
