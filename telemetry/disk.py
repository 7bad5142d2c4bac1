"""Disks: room left where the job writes, and what the device below it is doing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

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
_NO_ROOM: list[float | None] = [None] * _ROOM


class DiskSource:
    """Reads the file systems that hold ``folders``. One that is not there (yet) is not told."""

    lacks = ""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self._stats = [open_proc("/proc/diskstats")]
        self._before: dict[str, tuple[float, list[int]]] = {}

    def follow(self, entries: dict[str, Registered]) -> None:
        """Disks do not come and go with processes."""

    def read(self, mono_s: float) -> Iterable[Reading]:
        """Per folder: room, and the device's doings since the last reading."""
        raw = read_proc(self._stats[0])
        for folder in self._folders:
            try:
                room, device = os.statvfs(folder), folder.stat().st_dev
            except FileNotFoundError:
                continue
            except OSError:  # a file system that has been shut down answers nothing
                yield MACHINE, folder.name, DISK_METRICS[:_ROOM], _NO_ROOM
                continue
            unit = room.f_frsize
            values: list[float | None] = [
                float(n) for n in (room.f_bavail * unit, room.f_blocks * unit, room.f_favail, room.f_files)
            ]
            now = device_counters(raw, os.major(device), os.minor(device))
            if now:
                values += self._doings(folder.name, mono_s, now)
            yield MACHINE, folder.name, DISK_METRICS[: len(values)], values

    def close(self) -> None:
        """Give the descriptor back; idempotent."""
        close_proc(self._stats)

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


def device_counters(raw: bytes, major: int, minor: int) -> list[int]:
    """The device's first eleven figures of /proc/diskstats (all grow but the ninth, requests in flight); empty = not there."""
    for line in raw.splitlines():
        words = line.split()
        if len(words) >= 14 and (int(words[0]), int(words[1])) == (major, minor):
            return [int(word) for word in words[3:14]]
    return []
