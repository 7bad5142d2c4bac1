"""Devices that two workers share by turns, where a file stands for the device: how much of it is in use, and whose turn it is.

Both are read as the job leaves them: allocations are locked ranges of `<folder>/node<rank>`, and whoever took the lease and has
not given it up has its name in `node<rank>.lease`. Asking for locks takes none, so the job is never in anybody's way.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from telemetry.registry import Registered
from telemetry.sources import MACHINE, Reading

#: Metric and unit. Of the device (component `node<rank>`), and of each worker of that rank.
ARENA_METRICS: tuple[tuple[str, str], ...] = (("device_used_bytes", "bytes"), ("device_total_bytes", "bytes"))
LEASE_METRICS: tuple[tuple[str, str], ...] = (("device_leased", "flag"),)
#: `struct flock` of 64-bit Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")
_ROLES = ("train", "rollout")


class ArenaSource:
    """Reads every device file of a folder, which need not be there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, int] = {}
        self._hosts: dict[str, str] = {}
        self.lacks = ""

    def follow(self, entries: dict[str, Registered]) -> None:
        """Whose turns are told of."""
        self._hosts = {name: entry.host for name, entry in entries.items()}

    def read(self, mono_s: float) -> Iterable[Reading]:  # noqa: ARG002 - nothing here is a rate
        """Of each device what is locked of it, and of its workers a flag for the one that has the lease."""
        devices = [path for path in sorted(self._folder.glob("node*")) if path.name.removeprefix("node").isdecimal()]
        self.lacks = "" if devices else "no device is shared"
        for path in devices:
            rank = path.name.removeprefix("node")
            yield MACHINE, path.name, ARENA_METRICS, self._room(path)
            owner = _owner(path.with_suffix(".lease"))
            for component in (f"{role}{rank}" for role in _ROLES):
                if component in self._hosts:
                    yield self._hosts[component], component, LEASE_METRICS, [float(owner == component)]

    def close(self) -> None:
        """Give the descriptors back; idempotent."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _room(self, path: Path) -> list[float | None]:
        try:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            size = os.fstat(self._files[path]).st_size
            return [float(sum(_locked(self._files[path], 0, size))), float(size)]
        except OSError:
            return [None, None]


def _owner(lease: Path) -> str:
    """Who has it as the file tells; empty for nobody, or while it is being written."""
    try:
        return str(json.loads(lease.read_bytes())["owner"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _locked(file: int, start: int, end: int) -> Iterator[int]:
    """The sizes of the ranges from start to end that are locked; in no order."""
    while start < end:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
        kind, _, at, size, _ = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
        if kind == fcntl.F_UNLCK:
            return
        stop = min(at + size, end) if size else end
        yield from _locked(file, start, at)
        yield stop - max(at, start)
        start = stop
