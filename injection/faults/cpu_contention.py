"""A process must share its cores: busy processes pinned to them. They are started ahead and stand stopped until wanted."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from injection import procfs
from injection.fault import Ask, Context, Measurement, RefusedError, StuckError, Undo
from injection.procfs import Identity

#: How long the probe counts CPU time.
WINDOW_S = 0.3
#: Least part of the fair share n / (n + 1) of a core that the contenders must get; others may run there as well.
FAIR_PART = 0.5
#: A contender dies with the thread that started it, takes its core, stands still until woken, then counts for ever. Each is a
#: session of its own: the kernel's autogroups share a core among sessions, so that five in one session would weigh as one
#: (measured: a victim beside them kept 0.29 of its core instead of 0.165).
PROGRAM = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.setsid()
os.sched_setaffinity(0, {int(sys.argv[2])})
os.kill(os.getpid(), signal.SIGSTOP)
while True:
    pass
"""


@dataclass(frozen=True)
class Params:
    """`contenders`: busy processes on each core the target may run on."""

    contenders: Annotated[int, Field(ge=1, le=64)]


class CpuContention:
    """Equal competitors: same priority, same cores."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._target = ctx.process()
        self._children: list[subprocess.Popen[bytes]] = []
        self._who: list[Identity] = []
        self._cores: set[int] = set()

    def arm(self) -> None:
        """Start the contenders, stopped. Raises RefusedError where one does not come up."""
        self._cores = os.sched_getaffinity(self._target.who.pid)
        for core in sorted(self._cores):
            for _ in range(self._params.contenders):
                self._children.append(_contender(core))
        for child in self._children:
            result = os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if result is None or result.si_code != os.CLD_STOPPED:
                raise RefusedError("a contender did not come up")
        self._who = [procfs.identity(child.pid) for child in self._children]

    def undo(self) -> Undo:
        """Whom to end."""
        return {"contenders": [[one.pid, one.start_ticks] for one in self._who]}

    def apply(self) -> dict[str, Any]:
        """Wake them."""
        self._target.check()
        for child in self._children:
            child.send_signal(signal.SIGCONT)
        return {"woken_count": len(self._children), "cores_count": len(self._cores)}

    def verify(self) -> Measurement:
        """Another process counts the CPU time they got: at least half of their fair share of the target's cores."""
        found = self._ctx.ask("cpu_share", {"processes": self.undo()["contenders"], "window_s": WINDOW_S})
        share = found["cores_ratio"] / len(self._cores)
        fair = self._params.contenders / (self._params.contenders + 1)
        measured = {**found, "share_ratio": round(share, 4), "fair_share_ratio": round(fair, 4)}
        alive = found["alive_count"] == len(self._who)
        return Measurement(ok=alive and share >= FAIR_PART * fair, probe="CPU time of the contenders", measured=measured)

    @staticmethod
    def revert(undo: Undo) -> None:
        """End each contender that still is that process."""
        for pid, ticks in undo.get("contenders", []):
            _end(Identity(pid, ticks))

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process finds none of them."""
        found = ask("cpu_share", {"processes": undo.get("contenders", []), "window_s": 0.01})
        return Measurement(ok=found["alive_count"] == 0, probe="process table", measured=found)


def _contender(core: int) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-S", "-E", "-c", PROGRAM, str(os.getpid()), str(core)]
    return subprocess.Popen(["python3", *argv[1:]], executable=sys.executable, stdin=subprocess.DEVNULL, cwd="/")


def _end(who: Identity) -> None:
    try:
        pidfd = procfs.open_pidfd(who)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not select.select([pidfd], [], [], 2.0)[0]:
            raise StuckError(f"contender {who.pid} is still alive 2 s after SIGKILL")
    finally:
        os.close(pidfd)
