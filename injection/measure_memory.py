"""Measurements of memory: what a holder has, and what a group, the machine or a device has left, by the kernel's own books."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from injection.cgroup import Group, group_of
from injection.procfs import Identity

LOOK_S = 0.02
BLOCK = 512
#: Version of a group -> its limit, its usage, and the part of that which can be had back at any time.
GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
KILLS = {1: "memory.oom_control", 2: "memory.events"}


def machine_memory(holder: list[int], least_bytes: float, wait_s: float, **_: Any) -> dict[str, Any]:
    """What a holder has, and what is available on the machine, once the holder has `least_bytes` (or `wait_s` are over)."""
    held = _until(lambda: held_bytes(holder), lambda now: now >= least_bytes, wait_s)
    return {"held_bytes": held, **available_memory()}


def memory_group(
    group: str, version: int, pid: int, holder: list[int], least_bytes: float = 0, wait_s: float = 0.0, **_: Any
) -> dict[str, Any]:
    """Whether a group exists and a process is in it, what its ballast is, and how often the kernel killed there."""
    held = _until(lambda: held_bytes(holder), lambda now: now >= least_bytes, wait_s)
    where = Group(Path(group), version)
    found: dict[str, Any] = {"exists": where.path.exists(), "inside": pid in where.pids(), "held_bytes": held}
    found |= {"usage_bytes": 0, "oom_kills_count": 0}
    with suppress(OSError):
        found["usage_bytes"] = int((where.path / GROUP_FILES[version][1]).read_text())
        found["oom_kills_count"] = _figures(where.path / KILLS[version], 1).get("oom_kill", 0)
    return found


def device_memory(holder: list[int], file: str, ordinal: int, most_bytes: float, wait_s: float, **_: Any) -> dict[str, Any]:
    """What a co-tenant has of a device and what is free there, once no more than `most_bytes` are (or `wait_s` are over)."""
    look = (lambda: _arena(file, holder)) if file else (lambda: _card(ordinal, holder))
    found: dict[str, Any] = _until(look, lambda now: now["free_bytes"] <= most_bytes, wait_s)
    return found


def available_memory() -> dict[str, int]:
    """Memory in all and what this process could still have: of the machine, or of its own group where that has less left.

    `shared_bytes` is what the machine has in files that are memory, whoever made them.
    """
    book = _figures(Path("/proc/meminfo"), 1024)
    total, available = book["MemTotal:"], book["MemAvailable:"]
    group = group_of("self", "memory")
    if group is not None:
        limit, usage, cache = GROUP_FILES[group.version]
        with suppress(OSError, ValueError):  # the root has no limit, version 2 says "max"
            most = int((group.path / limit).read_text())
            used = int((group.path / usage).read_text()) - _figures(group.path / "memory.stat", 1)[cache]
            total, available = min(total, most), min(available, max(0, most - used))
    return {"total_bytes": total, "available_bytes": available, "shared_bytes": book["Shmem:"]}


def _figures(path: Path, unit: int) -> dict[str, int]:
    return {words[0]: int(words[1]) * unit for words in map(str.split, path.read_text().splitlines())}


def held_bytes(holder: list[int]) -> int:
    """What the nameless files of a process take, in bytes; 0 where it is gone."""
    who, total = Identity(*holder), 0
    if not who.alive():
        return 0
    with suppress(OSError):
        for link in Path(f"/proc/{who.pid}/fd").iterdir():
            with suppress(OSError):
                if "(deleted)" in str(link.readlink()):
                    total += link.stat().st_blocks * BLOCK
    return total


def _arena(file: str, holder: list[int]) -> dict[str, Any]:
    """A device that is a file: what is locked of it, by whomever, and by the co-tenant."""
    about = Path(file).stat()
    taken = [_range(line.split()) for line in Path("/proc/locks").read_text().splitlines() if _is_of(line.split(), about)]
    own = 0
    with suppress(OSError):
        for info in Path(f"/proc/{holder[0]}/fdinfo").iterdir() if Identity(*holder).alive() else ():
            locks = [line.split()[1:] for line in info.read_text().splitlines() if line.startswith("lock:")]
            own += sum(_range(words) for words in locks if _is_of(words, about))
    return {"held_bytes": own, "free_bytes": about.st_size - sum(taken), "size_bytes": about.st_size}


def _is_of(words: list[str], about: os.stat_result) -> bool:
    """Whether a lock as the kernel prints it is on that file: `1: OFDLCK ADVISORY WRITE -1 fe:00:123 0 4095`."""
    if words[1] != "OFDLCK":
        return False
    major, minor, inode = words[5].split(":")
    return (int(major, 16), int(minor, 16), int(inode)) == (os.major(about.st_dev), os.minor(about.st_dev), about.st_ino)


def _range(words: list[str]) -> int:
    return int(words[7]) - int(words[6]) + 1


def _card(ordinal: int, holder: list[int]) -> dict[str, Any]:
    """A CUDA device by the driver's own library."""
    import pynvml

    pynvml.nvmlInit()
    try:
        card = pynvml.nvmlDeviceGetHandleByIndex(ordinal % pynvml.nvmlDeviceGetCount())
        memory = pynvml.nvmlDeviceGetMemoryInfo(card)
        tenants = pynvml.nvmlDeviceGetComputeRunningProcesses(card)
        own = sum(one.usedGpuMemory or 0 for one in tenants if one.pid == holder[0]) if Identity(*holder).alive() else 0
        return {"held_bytes": own, "free_bytes": memory.free, "size_bytes": memory.total}
    finally:
        pynvml.nvmlShutdown()


def _until(look: Callable[[], Any], enough: Callable[[Any], bool], wait_s: float) -> Any:
    deadline = time.monotonic() + wait_s
    while True:
        now = look()
        if enough(now) or time.monotonic() > deadline:
            return now
        time.sleep(LOOK_S)
