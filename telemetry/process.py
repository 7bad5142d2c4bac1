"""What one process uses, from /proc on descriptors that stay open: the cheapest way to look often.

A descriptor of /proc/<pid>/* is bound to that process: when it has gone, reads fail, and a new process with the same number is
never read by mistake.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from telemetry.procfile import close_proc, open_proc, read_proc

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

#: Metric and unit, in the order of `ProcessProbe.read`. Rates are per second since the process's last good reading.
PROCESS_METRICS: tuple[tuple[str, str], ...] = (
    ("process_alive", "flag"),
    ("process_state", "code"),
    ("cpu_ratio", "cores"),
    ("rss_bytes", "bytes"),
    ("vsize_bytes", "bytes"),
    ("threads", "count"),
    ("open_files", "count"),
    ("minor_faults_per_s", "1/s"),
    ("major_faults_per_s", "1/s"),
    ("voluntary_switches_per_s", "1/s"),
    ("involuntary_switches_per_s", "1/s"),
    ("read_bytes_per_s", "bytes/s"),
    ("write_bytes_per_s", "bytes/s"),
)
#: In the order of `ProcessProbe.read_memory`: twenty times dearer than all of the above, so on a slower beat.
MEMORY_METRICS: tuple[tuple[str, str], ...] = (("pss_bytes", "bytes"), ("uss_bytes", "bytes"))

#: The letter of /proc/<pid>/stat as a number. 5 and above is a process that runs no more.
STATE_CODES = {"R": 0, "S": 1, "I": 1, "D": 2, "T": 3, "t": 4, "Z": 5, "X": 6}
FIRST_DEAD_CODE = 5

_GONE: list[float | None] = [0.0, 6.0, *[None] * (len(PROCESS_METRICS) - 2)]


class Counters(NamedTuple):
    """Ever-growing counts of a process at one instant, None where they could not be read."""

    mono_s: float
    cpu_ticks: int
    minor_faults: int
    major_faults: int
    voluntary: int | None
    involuntary: int | None
    read_bytes: int | None
    write_bytes: int | None


class ProcessProbe:
    """Reads one process. ``start_ticks`` (field 22 of its stat) must fit, or the process counts as gone."""

    def __init__(self, pid: int, start_ticks: int) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self._fd_folder = Path(f"/proc/{pid}/fd")
        self._handles = [open_proc(f"/proc/{pid}/{name}") for name in ("stat", "status", "io")]
        self._before: Counters | None = None

    def read(self, mono_s: float) -> list[float | None]:
        """One value per `PROCESS_METRICS`; None = missed. A process that has gone: alive 0, state 6, the rest None."""
        stat, status, io = (read_proc(handle) for handle in self._handles)
        fields = split_stat(stat) if stat else None
        if fields is None or int(fields[19]) != self.start_ticks:
            return list(_GONE)
        state = STATE_CODES.get(fields[0])
        alive = state is None or state < FIRST_DEAD_CODE
        voluntary, involuntary = parse_switches(status)
        read_bytes, write_bytes = parse_io(io)
        counts = int(fields[11]) + int(fields[12]), int(fields[7]), int(fields[9])
        now = Counters(mono_s, *counts, voluntary, involuntary, read_bytes, write_bytes)
        before, self._before = self._before, now
        gauges = [float(int(fields[21]) * PAGE_BYTES), float(fields[20]), float(fields[17]), self._open_files()]
        head = [float(alive), None if state is None else float(state)]
        return [*head, *_interleave(rates(before, now), gauges)]

    def read_memory(self) -> list[float | None]:
        """Proportional and unique set size in bytes (`MEMORY_METRICS`), None where the kernel does not tell."""
        try:
            with open(f"/proc/{self.pid}/smaps_rollup", "rb") as file:  # noqa: PTH123 - no Path objects in the loop
                raw = file.read()
        except OSError:
            return [None] * len(MEMORY_METRICS)
        return set_sizes(raw)

    def close(self) -> None:
        """Give the descriptors back; idempotent."""
        close_proc(self._handles)

    def _open_files(self) -> float | None:
        try:
            # Since Linux 6.2 the size of the folder is the number of open files; before, it is 0 and must be counted.
            return float(self._fd_folder.stat().st_size or sum(1 for _ in self._fd_folder.iterdir()))
        except OSError:
            return None


def split_stat(raw: bytes) -> list[str]:
    """Fields 3 and on of /proc/<pid>/stat; the command (field 2) may hold spaces and brackets, so cut at the last ")"."""
    return raw[raw.rindex(b")") + 2 :].decode("ascii").split()


def parse_switches(raw: bytes) -> tuple[int | None, int | None]:
    """Voluntary and involuntary context switches of the main thread, from /proc/<pid>/status."""
    return _number_after(raw, b"\nvoluntary_ctxt_switches:"), _number_after(raw, b"\nnonvoluntary_ctxt_switches:")


def parse_io(raw: bytes) -> tuple[int | None, int | None]:
    """Bytes read from and written to storage, from /proc/<pid>/io."""
    return _number_after(raw, b"\nread_bytes:"), _number_after(raw, b"\nwrite_bytes:")


def set_sizes(raw: bytes) -> list[float | None]:
    """Proportional and unique (all that is private) set size in bytes, from /proc/<pid>/smaps_rollup."""
    lines = [line.split() for line in raw.splitlines() if line.startswith((b"Pss:", b"Private_"))]
    sizes = {words[0]: float(words[1]) * 1024 for words in lines}
    pss = sizes.pop(b"Pss:", None)
    return [pss, sum(sizes.values()) if sizes else None]


def rates(before: Counters | None, now: Counters) -> list[float | None]:
    """CPU in cores, then minor and major faults, switches and storage bytes per second; None on the first reading."""
    if before is None or now.mono_s <= before.mono_s:
        return [None] * 7
    span = now.mono_s - before.mono_s
    pairs = (
        (before.minor_faults, now.minor_faults),
        (before.major_faults, now.major_faults),
        (before.voluntary, now.voluntary),
        (before.involuntary, now.involuntary),
        (before.read_bytes, now.read_bytes),
        (before.write_bytes, now.write_bytes),
    )
    others = [None if a is None or b is None else (b - a) / span for a, b in pairs]
    return [(now.cpu_ticks - before.cpu_ticks) / TICKS_PER_S / span, *others]


def _interleave(rate: list[float | None], gauges: list[float | None]) -> list[float | None]:
    return [rate[0], *gauges, *rate[1:]]


def _number_after(raw: bytes, key: bytes) -> int | None:
    at = raw.find(key)
    if at < 0:
        return None
    start = at + len(key)
    end = raw.find(b"\n", start)
    return int(raw[start : end if end >= 0 else len(raw)])
