"""What crosses each network device of each host: beside the sums of `telemetry.network`, for hosts that have several."""

from __future__ import annotations

from collections.abc import Iterable

from telemetry.procfile import close_proc, open_proc, read_proc
from telemetry.registry import Registered
from telemetry.sources import Reading

#: Metric and unit, in the order of `devices`. The component is ``host:device``.
INTERFACE_METRICS: tuple[tuple[str, str], ...] = (
    ("interface_rx_bytes_per_s", "bytes/s"),
    ("interface_tx_bytes_per_s", "bytes/s"),
    ("interface_rx_packets_per_s", "1/s"),
    ("interface_tx_packets_per_s", "1/s"),
    ("interface_errors_per_s", "1/s"),
    ("interface_dropped_per_s", "1/s"),
)


class InterfaceSource:
    """Reads the devices of each host through a process that lives there; it goes on when that process has died."""

    lacks = ""

    def __init__(self) -> None:
        self._handles: dict[str, int] = {}
        self._before: dict[str, tuple[float, dict[str, list[int]]]] = {}

    def follow(self, entries: dict[str, Registered]) -> None:
        """Look into each host that was not looked into yet."""
        for entry in entries.values():
            if self._handles.get(entry.host, -1) < 0:
                self._handles[entry.host] = open_proc(f"/proc/{entry.pid}/net/dev")

    def read(self, mono_s: float) -> Iterable[Reading]:
        """One value per `INTERFACE_METRICS` of each device; None on its first reading."""
        for host, handle in self._handles.items():
            now = devices(read_proc(handle))
            when_s, before = self._before.get(host, (mono_s, {}))
            self._before[host] = (mono_s, now)
            for device, counts in now.items():
                values: list[float | None] = [None] * len(counts)
                if device in before and mono_s > when_s:
                    values = [(b - a) / (mono_s - when_s) for a, b in zip(before[device], counts, strict=True)]
                yield host, f"{host}:{device}", INTERFACE_METRICS, values

    def close(self) -> None:
        """Give the descriptors back; idempotent."""
        close_proc(list(self._handles.values()))
        self._handles.clear()


def devices(raw: bytes) -> dict[str, list[int]]:
    """By device, since it was made, from /proc/net/dev: bytes and packets both ways, errors and drops of both ways together."""
    found = {}
    for line in raw.splitlines()[2:]:
        name, _, rest = line.partition(b":")
        words = [int(word) for word in rest.split()]
        if len(words) >= 12:
            found[name.strip().decode()] = [words[0], words[8], words[1], words[9], words[2] + words[10], words[3] + words[11]]
    return found
