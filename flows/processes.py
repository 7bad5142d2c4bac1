"""Ending processes of ours by identity (pid and start time), and those below them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from injection.procfs import Identity, identity, open_pidfd


def descendants(root: Identity) -> list[Identity]:
    """Every living process below ``root`` now, nearest first."""
    if not root.alive():
        return []
    found, queue = [], [root.pid]
    while queue:
        for pid in _children(queue.pop(0)):
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                child = identity(pid)
                if child.alive():
                    found.append(child)
                    queue.append(pid)
    return found


def end(processes: list[Identity], grace_s: float) -> list[Identity]:
    """Ask these processes to end, wait up to ``grace_s`` seconds, kill what is left; returns those that had to be killed."""
    for process in processes:
        send(process, signal.SIGTERM)
    left = _wait_gone(processes, grace_s)
    for process in left:
        send(process, signal.SIGKILL)
    _wait_gone(left, 5.0)
    return left


def send(process: Identity, number: int) -> None:
    """Signal exactly this process; nothing happens if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = open_pidfd(process)
        try:
            signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _wait_gone(processes: list[Identity], within_s: float) -> list[Identity]:
    deadline = time.monotonic() + within_s
    left = [p for p in processes if p.alive()]
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [p for p in left if p.alive()]
    return left


def _children(pid: int) -> list[int]:
    """Children of every thread of ``pid``: a child belongs to the thread that made it."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread ended meanwhile
            found += [int(word) for word in path.read_text().split()]
    return found
