"""What the machine as a whole does: CPU, memory, load, and pressure (PSI: the share of time in which something waited)."""

from __future__ import annotations

from telemetry.procfile import close_proc, open_proc, read_proc

#: Metric and unit, in the order of `HostProbe.read`.
HOST_METRICS: tuple[tuple[str, str], ...] = (
    ("host_cpu_ratio", "ratio"),
    ("host_cpu_steal_ratio", "ratio"),
    ("host_cpu_iowait_ratio", "ratio"),
    ("host_memory_available_bytes", "bytes"),
    ("host_memory_total_bytes", "bytes"),
    ("host_load_1m", "count"),
    ("host_oom_kills", "count"),
    ("psi_cpu_some_ratio", "ratio"),
    ("psi_memory_some_ratio", "ratio"),
    ("psi_memory_full_ratio", "ratio"),
    ("psi_io_some_ratio", "ratio"),
    ("psi_io_full_ratio", "ratio"),
)
_FILES = ("stat", "meminfo", "loadavg", "vmstat", "pressure/cpu", "pressure/memory", "pressure/io")
_PRESSURES = (("cpu", b"some"), ("memory", b"some"), ("memory", b"full"), ("io", b"some"), ("io", b"full"))


class HostProbe:
    """Reads the machine on descriptors that stay open. A source this kernel does not have gives None."""

    def __init__(self) -> None:
        self._handles = [open_proc(f"/proc/{name}") for name in _FILES]
        self._cpu: tuple[int, int, int, int] | None = None
        self._stalls: tuple[float, list[int | None]] | None = None

    def read(self, mono_s: float) -> list[float | None]:
        """One value per `HOST_METRICS`; ratios are over the time since the last reading, None on the first."""
        raw = dict(zip(_FILES, map(read_proc, self._handles), strict=True))
        memory, load = raw["meminfo"], raw["loadavg"].split()
        return [
            *self._cpu_shares(raw["stat"]),
            kib_of(memory, b"MemAvailable:"),
            kib_of(memory, b"MemTotal:"),
            float(load[0]) if load else None,
            number_of(raw["vmstat"], b"\noom_kill "),
            *self._stall_shares(mono_s, [stalled_us(raw[f"pressure/{name}"], kind) for name, kind in _PRESSURES]),
        ]

    @property
    def lacks(self) -> str:
        """Why there is no pressure (PSI); empty where there is."""
        return "" if max(self._handles[-3:]) >= 0 else "this kernel does not tell it"

    def close(self) -> None:
        """Give the descriptors back; idempotent."""
        close_proc(self._handles)

    def _cpu_shares(self, raw: bytes) -> list[float | None]:
        before, self._cpu = self._cpu, cpu_ticks(raw) if raw else None
        if before is None or self._cpu is None:
            return [None] * 3
        total, *parts = (now - then for now, then in zip(self._cpu, before, strict=True))
        return [part / total for part in parts] if total > 0 else [None] * 3

    def _stall_shares(self, mono_s: float, now: list[int | None]) -> list[float | None]:
        before, self._stalls = self._stalls, (mono_s, now)
        if before is None or mono_s <= before[0]:
            return [None] * len(now)
        span_us = (mono_s - before[0]) * 1e6
        return [None if a is None or b is None else (b - a) / span_us for a, b in zip(before[1], now, strict=True)]


def cpu_ticks(raw: bytes) -> tuple[int, int, int, int]:
    """Total, busy, stolen and waiting ticks of all cores together, from the first line of /proc/stat.

    A core waits when it is idle while a process of its waits for storage.
    """
    user, nice, system, idle, iowait, irq, softirq, steal = (int(word) for word in raw.split(b"\n", 1)[0].split()[1:9])
    busy = user + nice + system + irq + softirq
    return busy + idle + iowait + steal, busy, steal, iowait


def kib_of(raw: bytes, key: bytes) -> float | None:
    """A line of /proc/meminfo, in bytes."""
    kib = number_of(raw, key)
    return None if kib is None else kib * 1024


def number_of(raw: bytes, key: bytes) -> float | None:
    """The number that follows ``key``."""
    at = raw.find(key)
    return float(raw[at + len(key) :].split(None, 1)[0]) if at >= 0 else None


def stalled_us(raw: bytes, kind: bytes) -> int | None:
    """Microseconds stalled since boot, from one file of /proc/pressure; ``kind`` is ``some`` or ``full``."""
    for line in raw.splitlines():
        if line.startswith(kind):
            return int(line.rsplit(b"total=", 1)[1])
    return None
