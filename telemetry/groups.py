"""Control groups that the job's processes are in: memory against its limit, kills, and CPU time withheld. Versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from telemetry.procfile import close_proc, open_proc, read_proc
from telemetry.registry import Registered
from telemetry.sources import Reading

#: Metric and unit. The component is the process; a group that has no limit has no row for it.
GROUP_METRICS: tuple[tuple[str, str], ...] = (
    ("group_memory_bytes", "bytes"),
    ("group_memory_limit_bytes", "bytes"),
    ("group_oom_kills", "count"),
    ("group_throttled_periods", "count"),
    ("group_throttled_s", "s"),
)
#: Files of each controller by version. A limit of 2^60 or more is version 1's word for none.
_FILES = {
    1: {"memory": ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control"), "cpu": ("cpu.stat",)},
    2: {"memory": ("memory.current", "memory.max", "memory.events"), "cpu": ("cpu.stat",)},
}
_NO_LIMIT = 1 << 60


class GroupSource:
    """Follows each process from group to group; those in one group share its reading."""

    def __init__(self, mounts: str = "/proc/self/mounts") -> None:
        self._mounts = mounted(Path(mounts).read_text())
        self.lacks = "" if self._mounts else "no control groups are mounted"
        self._members: dict[str, tuple[Registered, int]] = {}
        self._groups: dict[bytes, list[tuple[int, list[int]]]] = {}

    def follow(self, entries: dict[str, Registered]) -> None:
        """One descriptor a process, which tells its groups."""
        for name in [name for name, (entry, _) in self._members.items() if entries.get(name) != entry]:
            close_proc([self._members.pop(name)[1]])
        for name, entry in entries.items():
            if name not in self._members:
                self._members[name] = (entry, open_proc(f"/proc/{entry.pid}/cgroup"))

    def read(self, mono_s: float) -> Iterable[Reading]:  # noqa: ARG002 - a source is told the time
        """Per process, what is known of its group; nothing of one that has gone."""
        values: dict[bytes, list[tuple[tuple[str, str], float]]] = {}
        for entry, handle in self._members.values():
            membership = read_proc(handle)
            if not membership:
                continue
            if membership not in values:
                values[membership] = self._values(membership)
            told = values[membership]
            if told:
                yield entry.host, entry.component, tuple(metric for metric, _ in told), [value for _, value in told]
        for left in [membership for membership in self._groups if membership not in values]:
            self._let_go(left)

    def close(self) -> None:
        """Give the descriptors back; idempotent."""
        close_proc([handle for _, handle in self._members.values()])
        self._members.clear()
        for membership in list(self._groups):
            self._let_go(membership)

    def _let_go(self, membership: bytes) -> None:
        for _, handles in self._groups.pop(membership):
            close_proc(handles)

    def _values(self, membership: bytes) -> list[tuple[tuple[str, str], float]]:
        if membership not in self._groups:
            self._groups[membership] = self._open(membership.decode())
        figures: list[float | None] = [None] * len(GROUP_METRICS)
        for version, handles in self._groups[membership]:
            texts = [read_proc(handle) for handle in handles]
            if len(texts) == 1:
                figures[3:] = throttled(texts[0], version)
            else:
                figures[:3] = [number(texts[0]), number(texts[1]), after(texts[2], b"oom_kill ")]
        return [(metric, value) for metric, value in zip(GROUP_METRICS, figures, strict=True) if value is not None]

    def _open(self, membership: str) -> list[tuple[int, list[int]]]:
        found = []
        for line in membership.splitlines():
            _, controllers, path = line.split(":", 2)
            for name in ("memory", "cpu") if not controllers else set(controllers.split(",")) & {"memory", "cpu"}:
                version = 1 if controllers else 2
                root = self._mounts.get(controllers and name)
                if root:
                    handles = [open_proc(f"{root}{path.rstrip('/')}/{file}") for file in _FILES[version][name]]
                    if max(handles) >= 0:  # where both versions are mounted, one of them has the controller
                        found.append((version, handles))
        return found


def mounted(text: str) -> dict[str, str]:
    """Controller -> where it is mounted, from /proc/self/mounts; the hierarchy of version 2 is the empty name."""
    places = {}
    for words in map(str.split, text.splitlines()):
        if words[2] == "cgroup2":
            places[""] = words[1]
        elif words[2] == "cgroup":
            places.update({name: words[1] for name in words[3].split(",") if name in ("memory", "cpu")})
    return places


def number(text: bytes) -> float | None:
    """A file of one number; None for ``max``, for version 1's word for no limit and for a file that is not there."""
    text = text.strip()
    return float(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def after(text: bytes, key: bytes) -> float | None:
    """The number in the line that begins with ``key``."""
    return next((float(line[len(key) :]) for line in text.splitlines() if line.startswith(key)), None)


def throttled(text: bytes, version: int) -> list[float | None]:
    """Periods in which the group was held back and the seconds of it, since the group was made, from cpu.stat."""
    key, units = (b"throttled_time ", 1e9) if version == 1 else (b"throttled_usec ", 1e6)
    held = after(text, key)
    return [after(text, b"nr_throttled "), None if held is None else held / units]
