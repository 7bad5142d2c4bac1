"""Bounded waits that watch the process they wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from injection.place import Process

POLL_S = 0.02


class LabError(RuntimeError):
    """Something the lab itself needs did not work; the message is one sentence for a person."""


def wait_for(what: str, done: Callable[[], bool], process: Process, log: Path, limit_s: float) -> None:
    """Wait until ``done``; LabError when the process ends first or ``limit_s`` seconds have passed, with its last words."""
    deadline = time.monotonic() + limit_s
    while not done():
        code = process.poll()
        if code is not None and not done():
            raise LabError(f"{what}: the process ended with {code}; its last words: {last_words(log)}")
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {limit_s:.0f} s; last words: {last_words(log)}")
        time.sleep(POLL_S)


def says(log: Path, line: str) -> bool:
    """Whether a line of the log is exactly ``line``."""
    return log.exists() and line in log.read_text(errors="replace").splitlines()


def last_words(log: Path) -> str:
    """The last line that says something, cut to a sentence's length."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1][:300] if lines else "(none)"
