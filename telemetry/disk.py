"""Disks: room left where the job writes, and what the device below it is doing.

A file system whose server is dead answers nobody, not even how much room it has: a child asks for each folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from telemetry.errand import Errand
from telemetry.procfile import close_proc, open_proc, read_proc
from telemetry.registry import Registered
from telemetry.sources import MACHINE, Reading

#: Metric and unit. The component is the folder's name. A file system without a device (tmpfs, overlay) has the first four.
DISK_METRICS: tuple[tuple[str, str], ...] = (
    ("disk_free_bytes", "bytes"),
    ("disk_total_bytes", "bytes"),
    ("disk_free_inodes", "count"),
    ("disk_total_inodes", "count"),
    ("disk_in_flight", "count"),
    ("disk_reads_per_s", "1/s"),
    ("disk_writes_per_s", "1/s"),
    ("disk_read_latency_s", "s"),
    ("disk_write_latency_s", "s"),
    ("disk_busy_ratio", "ratio"),
)
_ROOM = 4
_ABSENT, _SILENT = "absent", "silent"
#: The longest that an answer is waited for, once; what comes later is asked for anew.
PATIENCE_S = 0.05


class DiskSource:
    """Reads the file systems that hold ``folders``. One that is not there (yet) is not told; one that is silent is missed."""

    lacks = ""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = [_Folder(path) for path in folders]
        self._stats = [open_proc("/proc/diskstats")]
        self._before: dict[str, tuple[float, list[int]]] = {}

    def follow(self, entries: dict[str, Registered]) -> None:
        """Disks do not come and go with processes."""

    def read(self, mono_s: float) -> Iterable[Reading]:
        """Per folder: room, and the device's doings since the last reading."""
        raw = read_proc(self._stats[0])
        for folder in self._folders:
            told = folder.ask()
            if told == _ABSENT:
                continue
            figures = [int(word) for word in told.split()] if told != _SILENT else []
            values: list[float | None] = [float(figure) for figure in figures[:_ROOM]] or [None] * _ROOM
            if figures and (now := device_counters(raw, *figures[_ROOM:])):
                values += self._doings(folder.path.name, mono_s, now)
            yield MACHINE, folder.path.name, DISK_METRICS[: len(values)], values

    def close(self) -> None:
        """Give descriptor and children back; idempotent."""
        close_proc(self._stats)
        for folder in self._folders:
            folder.close()

    def _doings(self, name: str, mono_s: float, now: list[int]) -> list[float | None]:
        before, self._before[name] = self._before.get(name), (mono_s, now)
        in_flight = float(now[8])
        if before is None or mono_s <= before[0]:
            return [in_flight, None, None, None, None, None]
        span, grown = mono_s - before[0], [b - a for a, b in zip(before[1], now, strict=True)]
        reads, read_ms, writes, write_ms, busy_ms = (grown[at] for at in (0, 3, 4, 7, 9))
        rates = [reads / span, writes / span]
        latencies = [read_ms / 1e3 / reads if reads else None, write_ms / 1e3 / writes if writes else None]
        return [in_flight, *rates, *latencies, busy_ms / 1e3 / span]


class _Folder:
    """One folder, and the child that asks for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._errand: Errand | None = None
        self._late = False

    def ask(self) -> str:
        """As `room_of`; also `_SILENT` where no answer came in time."""
        try:
            self._errand = self._errand or Errand(partial(room_of, self.path))
        except OSError:  # no more processes, or no more files
            return _SILENT
        if self._late and self._errand.answer() is None:
            return _SILENT
        self._errand.ask()
        told = self._errand.answer(PATIENCE_S)
        self._late = told is None
        if self._errand.gone:
            self.close()
        return told or _SILENT

    def close(self) -> None:
        if self._errand:
            self._errand.close()
        self._errand = None


def room_of(folder: Path) -> str:
    """Bytes free and in all, inodes free and in all, major and minor number of the device; or that it is absent, or silent."""
    try:
        room, device = os.statvfs(folder), folder.stat().st_dev
    except FileNotFoundError:
        return _ABSENT
    except OSError:  # a file system that has been shut down answers nothing
        return _SILENT
    space = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize, room.f_favail, room.f_files
    return " ".join(map(str, (*space, os.major(device), os.minor(device))))


def device_counters(raw: bytes, major: int, minor: int) -> list[int]:
    """The device's first eleven figures of /proc/diskstats (all grow but the ninth, requests in flight); empty = not there."""
    for line in raw.splitlines():
        words = line.split()
        if len(words) >= 14 and (int(words[0]), int(words[1])) == (major, minor):
            return [int(word) for word in words[3:14]]
    return []
