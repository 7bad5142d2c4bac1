"""Measurements of the job's disk and files: the file system's own book, bytes that really got there, content."""

from __future__ import annotations

import hashlib
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from injection import throttle
from injection.disk import free_bytes
from injection.measure_memory import held_bytes
from injection.procfs import Identity

LOOK_S = 0.02
#: Writes one block after another to a file without a name, each made durable, and tells after each; it may never come back.
WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_TMPFILE | os.O_RDWR, 0o600)
size = int(sys.argv[2])
while True:
    os.pwrite(file, os.urandom(size), 0)
    os.fsync(file)
    os.write(1, b".")
"""
BLOCK_BYTES = 65536
LEAST_BLOCK_BYTES = 4096
#: How long a disk that is free again may take for one block: what had queued up goes first.
FREE_S = 5.0


def disk_space(path: str, holder: list[int], most_free_bytes: float, wait_s: float) -> dict[str, Any]:
    """Size and free bytes of a file system, and what the filler has of it, once no more is free (or `wait_s` are over)."""
    deadline = time.monotonic() + wait_s
    while True:
        size, free = free_bytes(Path(path))
        if free <= most_free_bytes or time.monotonic() > deadline:
            used = round(100 * (1 - free / size), 3)
            return {"size_bytes": size, "free_bytes": free, "used_percent": used, "held_bytes": held_bytes(holder)}
        time.sleep(LOOK_S)


def write_rate(process: list[int], window_s: float) -> dict[str, Any]:
    """Bytes a second that a process has written, by the kernel's book; durable ones where each write is followed by a sync."""
    before, began = _written(process), time.monotonic()
    time.sleep(window_s)
    return {
        "bytes_per_s": round((_written(process) - before) / (time.monotonic() - began), 1),
        "alive": Identity(*process).alive(),
    }


def disk_write(path: str, bytes_per_s: float, within_s: float, most_blocks: int = 1 << 30) -> dict[str, Any]:
    """Write to a file system for so long, or so many blocks, and see what gets there; `hangs` when not one block does."""
    block = int(min(BLOCK_BYTES, max(LEAST_BLOCK_BYTES, bytes_per_s / 8))) if bytes_per_s else LEAST_BLOCK_BYTES
    argv = [sys.executable, "-S", "-E", "-c", WRITER, path, str(block)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        assert writer.stdout is not None
        began, blocks = time.monotonic(), 0
        while (
            blocks < most_blocks
            and (left := began + within_s - time.monotonic()) > 0
            and select.select([writer.stdout], [], [], left)[0]
        ):
            told = os.read(writer.stdout.fileno(), 4096)
            if not told:
                break
            blocks += len(told)
        writer.kill()
        if not blocks:  # it cannot die before the disk answers, and nobody waits for that here
            writer.returncode = -9
        seconds = time.monotonic() - began
    return {"hangs": not blocks, "bytes_per_s": round(blocks * block / seconds, 1)}


def disk_again(path: str, device: str, **undo: Any) -> dict[str, Any]:
    """Whether nothing stands in the way of writing any more."""
    if "writer" in undo:
        return {"free": not Identity(*undo["writer"]).alive()}
    if "group" in undo:
        limit = throttle.limit_of(undo["group"], undo["version"], device)
        return {"free": limit != undo["limit_bytes_per_s"], "limit_bytes_per_s": limit}
    if not os.path.ismount(path):
        return {"free": True, "mounted": False}
    found = disk_write(path, 0.0, FREE_S, most_blocks=1)
    return {"free": not found["hangs"], **found}


def file_bytes(path: str, offset: int, length: int) -> dict[str, Any]:
    """Size of a file, its identity, and the sum of one region of it; `exists` false where it is gone."""
    with suppress(OSError), Path(path).open("rb") as file:
        about = os.fstat(file.fileno())
        file.seek(offset)
        region = hashlib.sha256(file.read(length)).hexdigest()
        return {"exists": True, "size_bytes": about.st_size, "inode": about.st_ino, "region_sha256": region}
    return {"exists": False, "size_bytes": 0, "inode": 0, "region_sha256": ""}


def _written(process: list[int]) -> int:
    if not Identity(*process).alive():
        return 0
    lines = (line.split() for line in Path(f"/proc/{process[0]}/io").read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == "wchar:")
