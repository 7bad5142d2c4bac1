"""What one process uses, from /proc on descriptors that stay open: the cheapest way to look often.

A descriptor of /proc/<pid>/* is bound to that process: when it has gone, reads fail, and a new process with the same number is
never read by mistake.
"""

from __future__ import annotations

import os
from pathlib import Path

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
STATE_CODES = {b"R": 0, b"S": 1, b"I": 1, b"D": 2, b"T": 3, b"t": 4, b"Z": 5, b"X": 6}
FIRST_DEAD_CODE = 5

_GONE: list[float | None] = [0.0, 6.0, *[None] * (len(PROCESS_METRICS) - 2)]
#: What a kernel that counts no runs says of each process.
_NO_RUNS = b"0 0 0\n"

#: Ever-growing counts of a process, None where they could not be read: seconds of CPU, minor and major faults, voluntary and
#: involuntary switches, bytes from and to storage.
Counts = tuple[float | None, ...]


class ProcessProbe:
    """Reads one process. ``start_ticks`` (field 22 of its stat) must fit, or the process counts as gone."""

    def __init__(self, pid: int, start_ticks: int) -> None:
        self.pid = pid
        self._start = str(start_ticks).encode()
        self._handles = [open_proc(f"/proc/{pid}/{name}") for name in ("stat", "schedstat", "status", "io")]
        self._fd_folder = Path(f"/proc/{pid}/fd")
        self._handles.append(open_proc(str(self._fd_folder), os.O_PATH))
        self._ran = b""
        self._switches: tuple[int | None, int | None] = None, None
        self._before: tuple[float, Counts] | None = None

    def read(self, mono_s: float) -> list[float | None]:
        """One value per `PROCESS_METRICS`; None = missed. A process that has gone: alive 0, state 6, the rest None."""
        raw = read_proc(self._handles[0])
        fields = split_stat(raw) if raw else []
        if not fields or fields[19] != self._start:
            return list(_GONE)
        state = STATE_CODES.get(fields[0])
        alive = state is None or state < FIRST_DEAD_CODE
        cpu_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        storage = two_after(read_proc(self._handles[3]), b"\nread_bytes:")
        counts = (cpu_s, int(fields[7]), int(fields[9]), *self._switched(), *storage)
        before, self._before = self._before, (mono_s, counts)
        cpu, *others = rates(before, self._before)
        gauges = float(int(fields[21]) * PAGE_BYTES), float(fields[20]), float(fields[17]), self._open_files()
        return [float(alive), None if state is None else float(state), cpu, *gauges, *others]

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

    def _switched(self) -> tuple[int | None, int | None]:
        """Voluntary and involuntary switches of the main thread. The file that tells them costs as much as all the others, so
        it is read when that thread has run since: its time on and before a core, and its turns, are then others.
        """
        ran = read_proc(self._handles[1])
        if ran != self._ran or ran in (b"", _NO_RUNS):
            self._ran, self._switches = ran, two_after(read_proc(self._handles[2]), b"\nvoluntary_ctxt_switches:")
        return self._switches

    def _open_files(self) -> float | None:
        try:
            # Since Linux 6.2 the size of the folder is the number of open files; before, it is 0 and must be counted.
            return float(os.fstat(self._handles[4]).st_size or sum(1 for _ in self._fd_folder.iterdir()))
        except OSError:
            return None


def split_stat(raw: bytes) -> list[bytes]:
    """Fields 3 to 24 of /proc/<pid>/stat, and the rest. The command (field 2) may hold any bytes: cut at the last ")"."""
    return raw[raw.rindex(b")") + 2 :].split(None, 22)


def two_after(raw: bytes, key: bytes) -> tuple[int | None, int | None]:
    """The number that follows ``key``, and the one that follows the next key; None where there is no such key."""
    at = raw.find(key)
    if at < 0:
        return None, None
    _, first, _, second, *_ = raw[at:].split(None, 4)
    return int(first), int(second)


def set_sizes(raw: bytes) -> list[float | None]:
    """Proportional and unique (all that is private) set size in bytes, from /proc/<pid>/smaps_rollup."""
    lines = [line.split() for line in raw.splitlines() if line.startswith((b"Pss:", b"Private_"))]
    sizes = {words[0]: float(words[1]) * 1024 for words in lines}
    pss = sizes.pop(b"Pss:", None)
    return [pss, sum(sizes.values()) if sizes else None]


def rates(before: tuple[float, Counts] | None, now: tuple[float, Counts]) -> list[float | None]:
    """What each count grew by a second; None on the first reading, and where one of the two was missed."""
    if before is None or now[0] <= before[0]:
        return [None] * len(now[1])
    span = now[0] - before[0]
    return [None if a is None or b is None else (b - a) / span for a, b in zip(before[1], now[1], strict=True)]
