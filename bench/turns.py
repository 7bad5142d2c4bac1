"""Loops that take turns: each is a process that waits, runs the steps it is asked for, and says so. Interleaved, a busy moment
of the machine falls on all of them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Turn:
    """What some steps cost: seconds on the clock, and processor seconds of every process that took part."""

    wall_s: float
    cpu_s: float


def serve(step: Callable[[int], object]) -> None:
    """In the loop's process: run `step(n)` as often as each line of standard input says, and answer with a line."""
    done = 0
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            step(done)
            done += 1
        print("done", flush=True)


class Loop:
    """A loop in a child process that speaks as `serve` does."""

    def __init__(self, argv: list[str], env: dict[str, str]):
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self._hear("ready")

    def turn(self, steps: int) -> Turn:
        """Run `steps` steps."""
        assert self._process.stdin is not None
        cpu_s, start = cpu_seconds(self._process.pid), time.monotonic()
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        self._hear("done")
        return Turn(time.monotonic() - start, cpu_seconds(self._process.pid) - cpu_s)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _hear(self, word: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return
        raise RuntimeError(f"{self._process.args!r} ended with exit code {self._process.wait()}")


def cpu_seconds(pid: int) -> float:
    """Processor seconds that a process and everything below it have used."""
    root, found = psutil.Process(pid), 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found += times.user + times.system
    return found
