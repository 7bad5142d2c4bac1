"""Bounded waits that watch the processes they wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

POLL_S = 0.02


class LabError(RuntimeError):
    """Something the lab itself needs did not work; the message is one sentence for a person."""


class Ending(Protocol):
    """A process of a place, or a child of ours."""

    def poll(self) -> int | None:
        """None while running; else the exit code, negative = ended by that signal."""


@dataclass(frozen=True)
class Watched:
    """A process without which a wait is in vain. ``logs``: where its last words may be, the most telling first."""

    name: str
    process: Ending
    logs: tuple[Path, ...]


def wait_for(what: str, done: Callable[[], bool], watched: Sequence[Watched], limit_s: float) -> None:
    """Wait until ``done``; LabError when a watched process ends first, with its last words, or after ``limit_s`` seconds.

    ``what`` is what is waited for, as a clause: "the plan was armed".
    """
    deadline = time.monotonic() + limit_s
    while not done():
        for one in watched:
            code = one.process.poll()
            if code is not None and not done():
                raise LabError(f"{one.name} {how_it_ended(code)} before {what}; its last words: {last_words(*one.logs)}")
        if time.monotonic() > deadline:
            words = f"last words of {watched[0].name}: {last_words(*watched[0].logs)}"
            raise LabError(f"{limit_s:.0f} s were over before {what}; {words}")
        time.sleep(POLL_S)


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def says(log: Path, line: str) -> bool:
    """Whether a line of the log is exactly ``line``."""
    return log.exists() and line in log.read_text(errors="replace").splitlines()


def last_words(*logs: Path) -> str:
    """The last line that says something in the first of the logs that says anything, cut to a sentence's length."""
    for log in logs:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
        if lines:
            return lines[-1][:300]
    return "(none)"
