"""How long a small write takes to be on the disk that the job writes checkpoints to: 4 KiB into a file of our own, and fsync.

A write to a disk that hangs may hang for ever, and nobody who waits for it can be killed. So a child does it (this file, run
as a program), and the source only asks it and looks whether it has answered.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from telemetry.registry import Registered
from telemetry.sources import MACHINE, Reading

#: Metric and unit. The component is the folder's name.
SYNC_METRICS: tuple[tuple[str, str], ...] = (("disk_fsync_s", "s"), ("disk_fsync_waiting_s", "s"))
FILE = ".sync"
_BLOCK = b"\0" * 4096


class SyncSource:
    """Asks for a write every ``every_s`` while ``folder`` is there, one at a time."""

    def __init__(self, folder: Path | None, every_s: float) -> None:
        self._folder = folder
        self._every_s = every_s
        self._due_s = 0.0
        self._since_s: float | None = None
        self._writer: subprocess.Popen[bytes] | None = None
        self.lacks = "" if folder else "no folder of checkpoints was named"

    def follow(self, entries: dict[str, Registered]) -> None:
        """A disk does not come and go with processes."""

    def read(self, mono_s: float) -> Iterable[Reading]:
        """When a write has ended: how long it took (None: it failed) and 0; while one has not: None and how long it waits."""
        if self._folder is None:
            return
        if self._since_s is None and mono_s >= self._due_s and self._folder.is_dir():
            self._ask(mono_s)
        if self._since_s is None:
            return
        ended, waits_s = self._answer(), mono_s - self._since_s
        if ended or waits_s:
            yield MACHINE, self._folder.name, SYNC_METRICS, ended or [None, waits_s]
        if ended:
            self._since_s = None

    def close(self) -> None:
        """Let the writer go: it ends, now or when its disk lets it; idempotent."""
        if self._writer:
            self._part_with(self._writer)
        self._writer = None

    def _ask(self, mono_s: float) -> None:
        self._due_s, self._since_s = mono_s + self._every_s, mono_s
        if self._writer is None:
            argv = [sys.executable, "-m", "telemetry.sync", str(self._folder)]
            root = Path(__file__).resolve().parent.parent
            self._writer = subprocess.Popen(argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._writer.stdin
        with suppress(BrokenPipeError):
            os.write(self._writer.stdin.fileno(), b"\n")

    def _answer(self) -> list[float | None]:
        """What the writer said; empty = nothing yet. One that has ended has failed, and there is another next time."""
        assert self._writer
        assert self._writer.stdout
        if not select.select([self._writer.stdout], [], [], 0)[0]:
            return []
        line = os.read(self._writer.stdout.fileno(), 64)
        if not line:
            self.close()
        return [float(line) if line.strip() else None, 0.0]

    def _part_with(self, writer: subprocess.Popen[bytes]) -> None:
        for pipe in (writer.stdin, writer.stdout):
            if pipe:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            writer.wait(1.0)


def main(folder: Path) -> None:
    """Write once per byte on standard input; answer with the seconds it took, or an empty line when it could not be written."""
    path = folder / FILE
    try:
        while os.read(0, 1):
            os.write(1, _written_s(path).encode() + b"\n")
    except BrokenPipeError:  # nobody waits any more
        pass
    finally:
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
