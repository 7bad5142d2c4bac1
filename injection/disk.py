"""The job's disk: a file system of the lab's own, where its checkpoints lie. Faults of disks act on it and on no other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from injection.fault import RefusedError


@dataclass(frozen=True)
class Disk:
    """Where it appears inside the place, and how large it is."""

    path: Path
    mib: int


@dataclass(frozen=True)
class Mounted:
    """What stands at a mount point: type of the file system, and major:minor of its device."""

    kind: str
    device: str


def own_disk(path: Path) -> Mounted:
    """What is mounted at a path. Raises RefusedError where it is not a mount of its own: that would be the machine's disk."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        words = line.split()
        if Path(words[4].encode().decode("unicode_escape")) == path:
            return Mounted(words[words.index("-") + 1], words[2])
    raise RefusedError(f"{path} is not a disk of the job's own: it lies on a file system that others use")


def free_bytes(path: Path) -> tuple[int, int]:
    """What files can take of the file system in all, and what is left of that, in bytes (it keeps a little for itself)."""
    found = os.statvfs(path)
    left = found.f_bavail * found.f_frsize
    return (found.f_blocks - found.f_bfree) * found.f_frsize + left, left
