"""Open files of /proc once and read them again and again."""

from __future__ import annotations

import os


def open_proc(path: str, flags: int = 0) -> int:
    """A descriptor, or -1 where the file is not there (any more) or not for us. Other errors (too many files) raise OSError."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return -1


def read_proc(handle: int) -> bytes:
    """The file as it is now; empty when it cannot be read (its process has gone)."""
    if handle < 0:
        return b""
    try:
        return os.pread(handle, 65536, 0)
    except OSError:
        return b""


def close_proc(handles: list[int]) -> None:
    """Give descriptors back; -1 and closed ones are left alone by being -1 afterwards."""
    for index, handle in enumerate(handles):
        if handle >= 0:
            os.close(handle)
        handles[index] = -1
