"""A process stands still: SIGSTOP, and SIGCONT to undo it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from injection import procfs
from injection.fault import Ask, Context, Measurement, RefusedError, StuckError, Undo
from injection.procfs import Identity

#: How long the kernel may take to stop or wake a process.
SWITCH_S = 2.0
SOON_S = 0.001
BRIEF_S = 20e-6
#: How long the probe watches a process that must not move.
WATCH_S = 0.1


@dataclass(frozen=True)
class Params:
    """None: how long is the fault's `until`."""


class ProcessPause:
    """SIGSTOP through a pidfd."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._target = ctx.process()
        self._pidfd = -1
        self._ran_s = -1.0

    def arm(self) -> None:
        """Hold the process by a descriptor."""
        self._pidfd = procfs.open_pidfd(self._target.who)

    def undo(self) -> Undo:
        """Whom to wake."""
        return {"pid": self._target.who.pid, "start_ticks": self._target.who.start_ticks}

    def apply(self) -> dict[str, Any]:
        """Stop it, and wait until the kernel says so. Refused where somebody else has stopped it already."""
        self._target.check()
        if _state(self._target.who) == "T":
            raise RefusedError(f"{self._target.component} is stopped already, and not by this fault")
        signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)
        os.close(self._pidfd)
        if not _becomes(self._target.who, stopped=True):
            raise RefusedError(f"{self._target.component} did not stop within {SWITCH_S} s")
        return {"state": "T"}

    def verify(self) -> Measurement:
        """Another process watches it: stopped in every sample, and no CPU time but a tick that the kernel may account late."""
        found = self._ctx.ask("process_state", {**self.undo(), "window_s": WATCH_S})
        still = found["alive"] and found["states"] == "T" and found["cpu_s"] <= 1 / procfs.TICKS_PER_S
        return Measurement(ok=still, probe="process state and CPU time", measured=found)

    def lost(self) -> str:
        """Whether it goes on, or has been on a core since it was first looked at, however briefly: who stands still is not."""
        who = self._target.who
        state, ran_s = _state(who), procfs.thread_cpu_s(who.pid)
        if not who.alive():
            return ""
        self._ran_s = ran_s if self._ran_s < 0 else self._ran_s
        return (
            "" if state == "T" and ran_s == self._ran_s else f"somebody else woke {self._target.component} (process {who.pid})"
        )

    @staticmethod
    def revert(undo: Undo) -> None:
        """Wake it, if it is that process and it is stopped."""
        who = Identity(undo["pid"], undo["start_ticks"])
        try:
            pidfd = procfs.open_pidfd(who)
        except ProcessLookupError:
            return
        try:
            if _state(who) == "T":
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        finally:
            os.close(pidfd)
        if not _becomes(who, stopped=False):
            raise StuckError(f"process {who.pid} is still stopped {SWITCH_S} s after SIGCONT")

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process sees it not stopped (or dead)."""
        found = ask("process_state", undo)
        return Measurement(ok="T" not in found["states"], probe="process state", measured=found)


def _state(who: Identity) -> str:
    stat = procfs.read_stat(who.pid)
    return stat.state if stat and stat.start_ticks == who.start_ticks else ""


def _becomes(who: Identity, *, stopped: bool) -> bool:
    began = time.monotonic()
    deadline = began + SWITCH_S
    while who.alive() and (_state(who) == "T") != stopped:
        now = time.monotonic()
        if now > deadline:
            return False
        # Nearly always it is so within a millisecond. Not without a sleep: who comes first would keep the target from stopping.
        time.sleep(BRIEF_S if now - began < SOON_S else SOON_S)
    return who.alive() or not stopped
