"""NFS mounts, from /proc/self/mountstats: what the client's kernel counts of its requests. Nothing here asks a server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from telemetry.procfile import close_proc, open_proc
from telemetry.registry import Registered
from telemetry.sources import MACHINE, Reading

#: Metric and unit. The component is the mount point. Latencies are per finished request, from its making to its end.
NFS_METRICS: tuple[tuple[str, str], ...] = (
    ("nfs_in_flight", "count"),
    ("nfs_reads_per_s", "1/s"),
    ("nfs_writes_per_s", "1/s"),
    ("nfs_read_bytes_per_s", "bytes/s"),
    ("nfs_write_bytes_per_s", "bytes/s"),
    ("nfs_retransmits_per_s", "1/s"),
    ("nfs_timeouts_per_s", "1/s"),
    ("nfs_read_latency_s", "s"),
    ("nfs_write_latency_s", "s"),
    ("nfs_commit_latency_s", "s"),
)
#: Where a transport's line counts requests sent and answers received, behind its name: udp has no figures of connections.
_SENT_AT = {"udp": 2, "tcp": 5, "rdma": 5}
_TIMED = ("READ", "WRITE", "COMMIT")

#: Ever-growing counts by name; of `_TIMED` operations how many have ended, and seconds that they took together.
Counts = dict[str, float]


class NfsSource:
    """Reads every NFS mount of this mount namespace."""

    def __init__(self, path: str = "/proc/self/mountstats") -> None:
        self._handles = [open_proc(path)]
        self._before: dict[str, tuple[float, Counts]] = {}
        self.lacks = ""

    def follow(self, entries: dict[str, Registered]) -> None:
        """Mounts do not come and go with processes."""

    def read(self, mono_s: float) -> Iterable[Reading]:
        """One value per `NFS_METRICS` of each mount; a latency is None where no such request has ended."""
        mounts = dict(mounts_of(_whole(self._handles[0])))
        self.lacks = "" if mounts else "no NFS is mounted"
        before, self._before = self._before, {name: (mono_s, counts) for name, counts in mounts.items()}
        for name, counts in mounts.items():
            yield MACHINE, name, NFS_METRICS, _values(mono_s, counts, before.get(name))

    def close(self) -> None:
        """Give the descriptor back; idempotent."""
        close_proc(self._handles)


def _whole(handle: int) -> str:
    """The file, however long: the kernel gives it piece by piece."""
    pieces: list[bytes] = []
    while handle >= 0:
        piece = os.pread(handle, 1 << 16, sum(map(len, pieces)))
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces).decode("utf-8", "replace")


def mounts_of(text: str) -> Iterator[tuple[str, Counts]]:
    """Mount point and counts of each NFS mount that tells statistics; versions 1.0 and 1.1 of the format."""
    for block in ("\n" + text).split("\ndevice ")[1:]:
        head, *lines = block.split("\n")
        words = head.split()
        if len(words) >= 8 and words[-2] in ("nfs", "nfs4") and words[-1].startswith("statvers="):
            yield words[3], _counts(lines)


def _counts(lines: list[str]) -> Counts:
    counts = dict.fromkeys(("in_flight", "read_bytes", "write_bytes", "again", "timeouts"), 0.0)
    operations = False
    for line in lines:
        name, _, rest = line.strip().partition(":")
        figures = rest.split()
        if name == "bytes" and len(figures) >= 6:
            counts["read_bytes"], counts["write_bytes"] = float(figures[4]), float(figures[5])
        elif name == "xprt" and figures and figures[0] in _SENT_AT:
            at = 1 + _SENT_AT[figures[0]]
            counts["in_flight"] += sum(map(float, figures[at : at + 1])) - sum(map(float, figures[at + 1 : at + 2]))
        elif operations and len(figures) >= 8:
            ended, sent, timeouts, *_ = map(float, figures)
            counts["again"] += max(0.0, sent - ended)
            counts["timeouts"] += timeouts
            if name in _TIMED:
                counts[name], counts[f"{name} s"] = ended, float(figures[7]) / 1e3
        operations = operations or line.strip() == "per-op statistics"
    return counts


def _values(mono_s: float, now: Counts, before: tuple[float, Counts] | None) -> list[float | None]:
    if before is None or mono_s <= before[0]:
        return [now["in_flight"], *[None] * (len(NFS_METRICS) - 1)]
    span, then = mono_s - before[0], before[1]
    grown = {name: value - then.get(name, 0.0) for name, value in now.items()}
    rates = [grown.get(name, 0.0) / span for name in ("READ", "WRITE", "read_bytes", "write_bytes", "again", "timeouts")]
    timed = [(grown.get(name, 0.0), grown.get(f"{name} s", 0.0)) for name in _TIMED]
    return [now["in_flight"], *rates, *(seconds / ended if ended else None for ended, seconds in timed)]
