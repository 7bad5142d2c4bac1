"""Fills a file system: `filler.py FOLDER`, then one line `PERCENT RESERVE_BYTES BYTES_PER_S` (0 = at once).

A file without a name: nothing shows in a folder, and all of it is free when this process ends. The files that are there are
held open, so that removing them frees nothing; what else others free is taken as well.
"""

import os
import sys
import time
from contextlib import suppress

LOOK_S = 0.001
LEAST = 4096


def grow(file: int, at: int, size: int) -> int:
    """Take `size` more bytes, or as much as there is; returns how many."""
    while size >= LEAST:
        try:
            os.posix_fallocate(file, at, size)
        except OSError:  # less is left than the book says
            size //= 2
        else:
            return size
    return 0


def hold_open(folder: str) -> None:
    """Open all files there, until this process ends: their blocks stay taken, whoever removes them."""
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone meanwhile, or a link to nowhere
                os.open(os.path.join(root, name), os.O_RDONLY | os.O_NONBLOCK)  # noqa: PTH118 - os.walk's own


def main(folder: str) -> None:
    """Be ready, wait for the word, fill, and look again for ever."""
    file = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    words = sys.stdin.readline().split()
    percent, reserve, rate = float(words[0]), int(words[1]), float(words[2])
    hold_open(folder)
    held, began, answered = 0, time.monotonic(), False
    while True:
        disk = os.statvfs(folder)
        free = disk.f_bavail * disk.f_frsize
        size = (disk.f_blocks - disk.f_bfree) * disk.f_frsize + free
        wanted = free - max(reserve, int(size * (1 - percent / 100)))
        if rate:
            wanted = min(wanted, int(rate * (time.monotonic() - began)) - held)
        held += grow(file, held, wanted)
        if not answered:
            sys.stdout.write(f"{held}\n")
            sys.stdout.flush()
            answered = True
        time.sleep(LOOK_S)


main(sys.argv[1])
