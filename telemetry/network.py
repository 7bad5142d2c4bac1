"""What crosses a host's network devices, read through /proc/<pid>/net of any process that lives in that host.

The descriptor keeps hold of the network namespace: it goes on telling when that process has died.
"""

from __future__ import annotations

from telemetry.procfile import close_proc, open_proc, read_proc

#: Metric and unit, in the order of `NetworkProbe.read`. Devices are all but the loopback, which is told apart.
NETWORK_METRICS: tuple[tuple[str, str], ...] = (
    ("net_rx_bytes_per_s", "bytes/s"),
    ("net_tx_bytes_per_s", "bytes/s"),
    ("net_loopback_bytes_per_s", "bytes/s"),
    ("net_dropped_per_s", "1/s"),
    ("tcp_retransmits_per_s", "1/s"),
)


class NetworkProbe:
    """Reads the network of the host that process ``pid`` lives in."""

    def __init__(self, pid: int) -> None:
        self._handles = [open_proc(f"/proc/{pid}/net/{name}") for name in ("dev", "snmp")]
        self._before: tuple[float, list[int | None]] | None = None

    @property
    def opened(self) -> bool:
        """Whether the process was there to be read."""
        return all(handle >= 0 for handle in self._handles)

    def read(self, mono_s: float) -> list[float | None]:
        """One value per `NETWORK_METRICS`, per second since the last reading; None on the first and where missed."""
        device, tcp = (read_proc(handle) for handle in self._handles)
        now: list[int | None] = [*(device_totals(device) if device else [None] * 4), retransmits(tcp)]
        before, self._before = self._before, (mono_s, now)
        if before is None or mono_s <= before[0]:
            return [None] * len(now)
        span = mono_s - before[0]
        return [None if a is None or b is None else (b - a) / span for a, b in zip(before[1], now, strict=True)]

    def close(self) -> None:
        """Give the descriptors back; idempotent."""
        close_proc(self._handles)


def device_totals(raw: bytes) -> list[int]:
    """Received, sent, loopback bytes and dropped packets (both ways) since the devices were made, from /proc/net/dev."""
    received = sent = loopback = dropped = 0
    for line in raw.splitlines()[2:]:
        name, _, rest = line.partition(b":")
        words = [int(word) for word in rest.split()]
        if len(words) < 12:
            continue
        if name.strip() == b"lo":
            loopback += words[0]
        else:
            received, sent, dropped = received + words[0], sent + words[8], dropped + words[3] + words[11]
    return [received, sent, loopback, dropped]


def retransmits(raw: bytes) -> int | None:
    """TCP segments sent again since boot of the namespace, from /proc/net/snmp."""
    lines = [line.split() for line in raw.splitlines() if line.startswith(b"Tcp:")]
    if len(lines) != 2 or b"RetransSegs" not in lines[0]:
        return None
    return int(lines[1][lines[0].index(b"RetransSegs")])
