"""How long a small write takes to be on the disk that the job writes checkpoints to: 4 KiB into a file of our own, and fsync.

A write to a disk that hangs may hang for ever. So a child does it, and the source only looks whether it has answered.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from telemetry.errand import Errand
from telemetry.registry import Registered
from telemetry.sources import MACHINE, Reading

#: Metric and unit. The component is the folder's name.
SYNC_METRICS: tuple[tuple[str, str], ...] = (("disk_fsync_s", "s"), ("disk_fsync_waiting_s", "s"))
FILE = ".sync"
_NO_FOLDER = "no folder"
_BLOCK = b"\0" * 4096


class SyncSource:
    """Asks for a write every ``every_s`` while ``folder`` is there, one at a time."""

    def __init__(self, folder: Path | None, every_s: float) -> None:
        self._folder = folder
        self._every_s = every_s
        self._due_s = 0.0
        self._since_s: float | None = None
        self._writer: Errand | None = None
        self.lacks = "" if folder else "no folder of checkpoints was named"

    def follow(self, entries: dict[str, Registered]) -> None:
        """A disk does not come and go with processes."""

    def read(self, mono_s: float) -> Iterable[Reading]:
        """When a write has ended: how long it took (None: it failed) and 0; while one has not: None and how long it waits."""
        if self._folder is None:
            return
        if self._since_s is None and mono_s >= self._due_s:
            self._due_s = mono_s + self._every_s
            try:
                self._writer = self._writer or Errand(partial(written_s, self._folder), partial(_clear, self._folder))
            except OSError:  # no more processes, or no more files
                yield MACHINE, self._folder.name, SYNC_METRICS, [None, 0.0]
                return
            self._writer.ask()
            self._since_s = mono_s
        if self._writer is None or self._since_s is None:
            return
        ended, waits_s = self._writer.answer(), mono_s - self._since_s
        if ended is not None:
            self._since_s = None
            if self._writer.gone:
                self.close()
        if ended == _NO_FOLDER:
            self._due_s = 0.0
        elif ended is not None or waits_s:
            yield (
                MACHINE,
                self._folder.name,
                SYNC_METRICS,
                [float(ended) if ended else None, 0.0 if ended is not None else waits_s],
            )

    def close(self) -> None:
        """Let the writer go: it ends, now or when its disk lets it; idempotent."""
        if self._writer:
            self._writer.close()
        self._writer = None


def written_s(folder: Path) -> str:
    """Write once: the seconds it took, nothing when it could not be written, or that there is no such folder."""
    path, began = folder / FILE, time.monotonic()
    try:
        with path.open("r+b" if path.exists() else "wb", buffering=0) as file:
            file.write(_BLOCK)
            os.fsync(file.fileno())
    except FileNotFoundError:
        return _NO_FOLDER
    except OSError:
        return ""
    return f"{time.monotonic() - began:.6f}"


def _clear(folder: Path) -> None:
    with suppress(OSError):
        (folder / FILE).unlink()
