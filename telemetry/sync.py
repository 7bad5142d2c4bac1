"""How long a small write takes to be on the disk that the job writes checkpoints to: 4 KiB into a file of our own, and fsync.

A write to a disk that hangs may hang for ever, and nobody who waits for it can be killed. So a child does it, and the source
only asks it and looks whether it has answered.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from telemetry.registry import Registered
from telemetry.sources import MACHINE, Reading

#: Metric and unit. The component is the folder's name.
SYNC_METRICS: tuple[tuple[str, str], ...] = (("disk_fsync_s", "s"), ("disk_fsync_waiting_s", "s"))
FILE = ".sync"
#: The longest that its end is waited for.
END_S = 1.0
_BLOCK = b"\0" * 4096


class SyncSource:
    """Asks for a write every ``every_s`` while ``folder`` is there, one at a time."""

    def __init__(self, folder: Path | None, every_s: float) -> None:
        self._folder = folder
        self._every_s = every_s
        self._due_s = 0.0
        self._since_s: float | None = None
        self._writer: Writer | None = None
        self.lacks = "" if folder else "no folder of checkpoints was named"

    def follow(self, entries: dict[str, Registered]) -> None:
        """A disk does not come and go with processes."""

    def read(self, mono_s: float) -> Iterable[Reading]:
        """When a write has ended: how long it took (None: it failed) and 0; while one has not: None and how long it waits."""
        if self._folder is None:
            return
        if self._since_s is None and mono_s >= self._due_s and self._folder.is_dir():
            self._due_s = mono_s + self._every_s
            try:
                self._writer = self._writer or Writer(self._folder)
            except OSError:  # no more processes, or no more files
                yield MACHINE, self._folder.name, SYNC_METRICS, [None, 0.0]
                return
            self._writer.ask()
            self._since_s = mono_s
        if self._writer is None or self._since_s is None:
            return
        ended, waits_s = self._writer.answer(), mono_s - self._since_s
        if ended or waits_s:
            yield MACHINE, self._folder.name, SYNC_METRICS, ended or [None, waits_s]
        if ended:
            self._since_s = None
            if self._writer.gone:
                self.close()

    def close(self) -> None:
        """Let the writer go: it ends, now or when its disk lets it; idempotent."""
        if self._writer:
            self._writer.close()
        self._writer = None


class Writer:
    """A child of ours, without a program of its own: it has our name, and nothing of ours but two pipes. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        asks, self._ask = os.pipe()
        self._answer, answers = os.pipe()
        self.gone = False
        try:
            self.pid = os.fork()
        except OSError:
            for pipe in (asks, self._ask, self._answer, answers):
                os.close(pipe)
            raise
        if self.pid == 0:
            try:
                os.dup2(asks, 0)
                os.dup2(answers, 1)
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                _write_when_asked(folder)
            finally:
                os._exit(0)
        os.close(asks)
        os.close(answers)

    def ask(self) -> None:
        """Have it write once."""
        with suppress(BrokenPipeError):
            os.write(self._ask, b"\n")

    def answer(self) -> list[float | None]:
        """What it said; empty = nothing yet. One that has ended has failed."""
        if not select.select([self._answer], [], [], 0)[0]:
            return []
        line = os.read(self._answer, 64)
        self.gone = not line
        return [float(line) if line.strip() else None, 0.0]

    def close(self) -> None:
        """It ends when nobody can ask it any more. One that hangs in its disk is left to whoever is everybody's parent."""
        os.close(self._ask)
        os.close(self._answer)
        deadline = time.monotonic() + END_S
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.005)


def _write_when_asked(folder: Path) -> None:
    """Write once per byte on standard input; answer with the seconds it took, or an empty line when it could not be written."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    path = folder / FILE
    with suppress(BrokenPipeError):
        while os.read(0, 1):
            os.write(1, _written_s(path).encode() + b"\n")
    with suppress(OSError):
        path.unlink()


def _written_s(path: Path) -> str:
    began = time.monotonic()
    try:
        with path.open("r+b" if path.exists() else "wb", buffering=0) as file:
            file.write(_BLOCK)
            os.fsync(file.fileno())
    except OSError:
        return ""
    return f"{time.monotonic() - began:.6f}"
