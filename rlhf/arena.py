"""The memory of one device that two workers of a node share: a file of fixed size, all of it really there, and a lease.

An allocation is a range of the file that its owner holds an open-file-description lock on and has mapped; the lock table of the
kernel is the only book that is kept, so what a dead process had is free again and any program may take, or spoil, bytes.
The lease (`<path>.lease`, flock) says whose turn it is; whoever wants the next turn writes its name to `<path>.request`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from rlhf.stats import StatsTracker

logger = logging.getLogger(__name__)

RETRY_S = 0.05
#: Failed attempts before the first is told; a hand-over costs a few, which are nobody's news.
QUIET_ATTEMPTS = 16
MIB = 1 << 20
#: Who holds a lease and does not say so.
STRANGER = "another process"
#: `struct flock` of 64-bit Linux: type, whence, start, length, pid.
FLOCK = struct.Struct("hhqqi4x")


class ArenaOutOfMemoryError(RuntimeError):
    """An allocation that was given up; the text says how much is in use, of how much, and who holds the lease."""


class Region(Protocol):
    """Memory of a device, held until it is freed."""

    def region(self) -> Tensor:
        """All of it, `[n]` of uint8."""

    def free(self) -> None: ...
    def __enter__(self) -> Region: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Allocation:
    """A mapped range of the arena, until `free` (or the end of a `with`)."""

    def __init__(self, path: Path, start: int, size: int):
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._range = (start, size)
        try:
            _lock(self._file, fcntl.F_WRLCK, start, size)
            self.buffer = mmap.mmap(self._file, size, offset=start)
        except BaseException:
            os.close(self._file)
            raise

    def region(self) -> Tensor:
        """All of it, `[n]` of uint8."""
        return torch.frombuffer(self.buffer, dtype=torch.uint8)

    def free(self) -> None:
        """Give the range back; the mapping goes with its last view."""
        _lock(self._file, fcntl.F_UNLCK, *self._range)
        os.close(self._file)

    def __enter__(self) -> Allocation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.free()


class DeviceArena:
    """One worker's view of the arena. ``owner`` is the name it asks, holds and is told by.

    Raises OSError when the file cannot be had in full size.
    """

    def __init__(self, path: Path, cap_bytes: int, owner: str, stats: StatsTracker):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._cap, self._owner, self._stats = path, cap_bytes, owner, stats
        self._open()
        self._lease = os.open(path.with_suffix(".lease"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._request = path.with_suffix(".request")
        self._asked = self._held = False
        self._asked_s = self._held_s = 0.0

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.posix_fallocate(self._file, 0, self._cap)

    def _shut(self) -> None:
        os.close(self._file)

    def request(self) -> None:
        """Ask for the next turn. Only who has asked ever takes the lease."""
        if not self._asked:
            self._asked, self._asked_s = True, time.monotonic()
        part = self._request.with_suffix(f".{self._owner}")
        part.write_text(self._owner)
        part.replace(self._request)

    def wanted_by(self) -> str:
        """Who asked last and has not had the lease since; empty for nobody."""
        try:
            return self._request.read_text()
        except FileNotFoundError:  # nobody has asked, or who did has just taken the lease
            return ""

    def holder(self) -> tuple[str, float]:
        """Who has the lease, and for how many seconds; ("", 0.0) when it is free."""
        if self._held:
            return self._told()
        try:
            fcntl.flock(self._lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._told()
        fcntl.flock(self._lease, fcntl.LOCK_UN)
        return "", 0.0

    def release(self) -> None:
        """Give the lease up, if it is held."""
        if self._held:
            os.ftruncate(self._lease, 0)
            fcntl.flock(self._lease, fcntl.LOCK_UN)
            self._stats.scalar("", self._stats.step, arena_lease_count=0, arena_lease_held_s=time.monotonic() - self._held_s)
            logger.info("device lease released by %s", self._owner)
        self._asked = self._held = False

    def allocate(self, size: int, patience_s: float) -> Region:
        """`size` bytes, rounded up to pages, under the lease. Tries again until `patience_s`; raises ArenaOutOfMemoryError."""
        size = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        start, failures = time.monotonic(), 0
        while (allocation := self._try(size)) is None:
            failures += 1
            text = self._why(size, failures)
            if failures >= QUIET_ATTEMPTS and failures & (failures - 1) == 0:
                logger.warning("%s", text)
            if time.monotonic() - start > patience_s:
                break
            time.sleep(RETRY_S)
        self._tell(time.monotonic() - start, failures, made=allocation is not None)
        if allocation is None:
            raise ArenaOutOfMemoryError(text)
        return allocation

    def _tell(self, wait_s: float, failures: int, *, made: bool) -> None:
        """An allocation that was made or given up; in the latter case also who has the lease, who may tell nothing himself."""
        figures = {"wait_s": wait_s, "attempts_count": failures + made, "failed_count": failures, "given_up_count": not made}
        told = {f"arena_{name}": value for name, value in {**figures, "used_bytes": self.used_bytes()}.items()}
        self._stats.scalar("", self._stats.step, **told)
        owner, held_s = ("", 0.0) if made else self.holder()
        if owner not in ("", STRANGER):
            self._stats.scalar_about(owner, "", self._stats.step, arena_lease_count=1, arena_lease_held_s=held_s)

    def used_bytes(self) -> int:
        """The sum of all live allocations, whoever made them."""
        return sum(end - start for start, end in _locked(self._file, 0, self._cap))

    def close(self) -> None:
        self.release()
        os.close(self._lease)
        self._shut()

    def _try(self, size: int) -> Region | None:
        if not self._held and not (self._asked and self._take_lease()):
            return None
        return self._place(size)

    def _place(self, size: int) -> Region | None:
        """A free range, wherever there is one."""
        start = 0
        for taken, end in [*sorted(_locked(self._file, 0, self._cap)), (self._cap, self._cap)]:
            if taken - start >= size:
                try:
                    return Allocation(self._path, start, size)
                except BlockingIOError:  # somebody was faster
                    return None
            start = -(-end // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        return None

    def _take_lease(self) -> bool:
        try:
            fcntl.flock(self._lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(self._lease, 0)
        os.pwrite(self._lease, json.dumps({"owner": self._owner, "since_wall_s": time.time()}).encode(), 0)
        if self.wanted_by() == self._owner:
            self._request.unlink(missing_ok=True)
        self._held, self._held_s = True, time.monotonic()
        waited_s = self._held_s - self._asked_s
        self._stats.scalar("", self._stats.step, arena_lease_count=1, arena_lease_wait_s=waited_s)
        logger.info("device lease taken by %s", self._owner)
        return True

    def _told(self) -> tuple[str, float]:
        """What the holder wrote; a holder that wrote nothing is another process."""
        try:
            lease = json.loads(os.pread(self._lease, 4096, 0))
            return str(lease["owner"]), time.time() - float(lease["since_wall_s"])
        except (ValueError, KeyError, TypeError):
            return STRANGER, 0.0

    def _why(self, size: int, failures: int) -> str:
        owner, seconds = self.holder()
        lease = f"lease held by {owner} for {seconds:.1f}s" if owner else "lease free, not asked for"
        used = f"{self.used_bytes() / MIB:.1f} of {self._cap / MIB:.1f} MiB in use"
        return f"out of memory: tried to allocate {size / MIB:.1f} MiB, {used}, {lease}, attempt {failures}"


def _lock(file: int, kind: int, start: int, size: int) -> None:
    """Lock or unlock a range for this open file description. Raises BlockingIOError when another holds part of it."""
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, start, size, 0))


def _locked(file: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges from `start` to `end` that other descriptions hold; in no order."""
    while start < end:
        asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
        kind, _, at, size, _ = FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
        if kind == fcntl.F_UNLCK:
            return
        stop = min(at + size, end) if size else end
        yield from _locked(file, start, at)
        yield max(at, start), stop
        start = stop
