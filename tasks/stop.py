"""Stop: end whatever experiment runs on this machine and undo every fault that is in force."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from injection.recover import Outcome
from tasks.machine_lock import holder, machine_lock
from tasks.recover import recover

#: How long an experiment may take to revert and end after it was asked to, s.
GRACE_S = 60.0
#: After a kill the keeper, the kernel and the watchdog end what is left; the lock is free at once.
KILL_S = 10.0


def stop_all() -> list[Outcome]:
    """Ask the running experiment to end (it reverts by itself), kill it if it does not, then recover.

    Raises PermissionError when another user's experiment holds the machine, MachineBusyError when it could not be ended.
    """
    who = holder()
    if who:
        pid = int(str(who["pid"]))
        _ask(pid, signal.SIGTERM)
        if not _free_within(GRACE_S):
            _ask(pid, signal.SIGKILL)
            _free_within(KILL_S)
    with machine_lock("stop", KILL_S):
        return recover()


def _ask(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _free_within(limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while holder():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
