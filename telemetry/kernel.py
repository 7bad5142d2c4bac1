"""The kernel's own log: kills for want of memory, and errors of file systems, disks and GPUs. Read where it may be read."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable

from telemetry.procfile import open_proc
from telemetry.registry import Registered
from telemetry.sources import MACHINE, Reading

logger = logging.getLogger("sampler")

#: Metric and unit: records since the sampler began.
KERNEL_METRICS: tuple[tuple[str, str], ...] = (
    ("kernel_oom_kills", "count"),
    ("kernel_fs_errors", "count"),
    ("kernel_disk_errors", "count"),
    ("kernel_gpu_errors", "count"),
    ("kernel_lost_records", "count"),
)
_SIGNS = (
    re.compile(rb"(?:Out of memory|Memory cgroup out of memory): Killed process"),
    re.compile(rb"(?:EXT4-fs|XFS|BTRFS|FAT-fs|F2FS)[^\n]*\b(?:error|shut ?down|corrupt)", re.IGNORECASE),
    re.compile(rb"I/O error|Buffer I/O error|medium error", re.IGNORECASE),
    re.compile(rb"NVRM: Xid"),
)
_LOST = len(_SIGNS)


class KernelSource:
    """Counts from now on. What counted is in the sampler's log, word for word."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self._handle = open_proc(path, os.O_NONBLOCK)
        self.lacks = "" if self._handle >= 0 else "the kernel's log may not be read"
        self._counts = [0.0] * len(KERNEL_METRICS)
        if self._handle >= 0:
            os.lseek(self._handle, 0, os.SEEK_END)

    def follow(self, entries: dict[str, Registered]) -> None:
        """The kernel is the machine's."""

    def read(self, mono_s: float) -> Iterable[Reading]:  # noqa: ARG002 - a source is told the time
        """The counts as they are now; nothing where the log may not be read."""
        if self._handle < 0:
            return
        self._drain()
        yield MACHINE, MACHINE, KERNEL_METRICS, list(self._counts)

    def close(self) -> None:
        """Give the descriptor back; idempotent."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _drain(self) -> None:
        while True:
            try:
                record = os.read(self._handle, 8192)
            except BlockingIOError:
                return
            except BrokenPipeError:  # records were overwritten before they were read
                self._counts[_LOST] += 1
                continue
            if not record:
                return
            for index in signs(record):
                self._counts[index] += 1
                logger.info("kernel: %s", record.partition(b";")[2].partition(b"\n")[0].decode("utf-8", "replace"))


def signs(record: bytes) -> list[int]:
    """Which of the first `KERNEL_METRICS` a record of /dev/kmsg counts for. Its head ends at the first semicolon."""
    head, _, text = record.partition(b";")
    if head.split(b",")[0].isdigit() and int(head.split(b",")[0]) >> 3:
        return []  # written by a program, not by the kernel
    line = text.partition(b"\n")[0]
    return [index for index, sign in enumerate(_SIGNS) if sign.search(line)]
