"""What `/proc` tells about a process: identity, state, CPU time, memory, limits. Plain reads, no library in between."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: Clock ticks a second of the CPU times in /proc/<pid>/stat.
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: What the kernel says of a number that is free, or by now that of a thread (the last of them, or the second in older kernels).
NO_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)


@dataclass(frozen=True)
class Identity:
    """A process and nothing but it: a pid alone may have been given to another process since."""

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """Whether this very process still exists and is not a zombie."""
        stat = read_stat(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks and stat.state not in "ZX"


@dataclass(frozen=True)
class Stat:
    """Fields of /proc/<pid>/stat. `cpu_s` is user plus system time in seconds."""

    state: str
    cpu_s: float
    start_ticks: int


def read_stat(pid: int) -> Stat | None:
    """The stat line of a process, or None where it does not exist."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name in parentheses may hold anything, so count from its end
    return Stat(fields[0], (int(fields[11]) + int(fields[12])) / TICKS_PER_S, int(fields[19]))


def thread_cpu_s(tid: int) -> float:
    """CPU seconds of one thread (a pid means the first) to the nanosecond: many small shares do not drown in clock ticks."""
    try:
        return int(Path(f"/proc/{tid}/schedstat").read_text().split()[0]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        stat = read_stat(tid)  # gone, or a kernel without scheduler statistics
        return stat.cpu_s if stat else 0.0


def idle_s(cores: Collection[int]) -> float:
    """Seconds since boot in which these cores, added up, had nothing to do (waiting for a disk included)."""
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    wanted = {f"cpu{core}" for core in cores}
    return sum(int(words[4]) + int(words[5]) for words in lines if words[0] in wanted) / TICKS_PER_S


def identity(pid: int) -> Identity:
    """The identity of a living process. Raises ProcessLookupError where there is none."""
    stat = read_stat(pid)
    if stat is None:
        raise ProcessLookupError(f"no process {pid}")
    return Identity(pid, stat.start_ticks)


def open_pidfd(who: Identity) -> int:
    """A descriptor that means this process for ever. Raises ProcessLookupError where it is gone."""
    try:
        descriptor = os.pidfd_open(who.pid)
    except OSError as error:
        if error.errno not in NO_PROCESS:
            raise
        raise ProcessLookupError(f"there is no process {who.pid}") from error
    if who.alive():
        return descriptor
    os.close(descriptor)
    raise ProcessLookupError(f"process {who.pid} is no longer the one that was meant")


def await_end(watched: Sequence[Identity]) -> int:
    """Wait until one of these processes has ended, however long that takes. Returns its pid."""
    ends, pid_of = select.poll(), {}
    try:
        for who in watched:
            pid_of[descriptor := open_pidfd(who)] = who.pid
            ends.register(descriptor, select.POLLIN)
        return pid_of[ends.poll()[0][0]]
    except ProcessLookupError:
        return next(who.pid for who in watched if not who.alive())
    finally:
        for descriptor in pid_of:
            os.close(descriptor)


def vm_size_bytes(pid: int) -> int:
    """Size of the address space (what RLIMIT_AS counts), in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def address_space_limit_bytes(pid: int) -> int | None:
    """The soft RLIMIT_AS as the kernel prints it, in bytes; None = unlimited."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max address space"):
            soft = line.split()[3]
            return None if soft == "unlimited" else int(soft)
    raise ValueError(f"/proc/{pid}/limits has no address space line")


def namespace_inode(pid: int | str, kind: str) -> int:
    """The inode that names a namespace of a process; `kind` is `pid` or `net`."""
    return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino


def boot_id() -> str:
    """The kernel's random name of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pid_namespace_lives(inode: int) -> bool:
    """Whether any process we may look at lives in that PID namespace. One that nobody has reaped yet does not."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            inside = namespace_inode(entry.name, "pid") == inode
        except OSError:
            continue
        stat = read_stat(int(entry.name)) if inside else None
        if stat is not None and stat.state not in "ZX":
            return True
    return False


def pin(who: Identity, core: int) -> None:
    """Keep every thread of a process, and those it starts later, to one core. Threads that end meanwhile are no matter."""
    for task in Path(f"/proc/{who.pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {core})
