"""Shares a device's memory on the CPU: `tenant.py FILE`, then one line `HEADROOM_BYTES BYTES_PER_S` (0 = at once).

The file is the device; an allocation is a range locked by an open file description. It takes what is free above the headroom,
from the end, and whatever becomes free later; what it has is free again when it ends.
"""

import errno
import fcntl
import os
import struct
import sys
import time

FLOCK = struct.Struct("hhqqi4x")
PAGE = os.sysconf("SC_PAGE_SIZE")
LOOK_S = 0.01


def locked(file: int, start: int, end: int) -> list[tuple[int, int]]:
    """Ranges from `start` to `end` that other descriptions than `file` hold."""
    found, at = [], start
    while at < end:
        asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, end - at, 0)
        kind, _, low, size, _ = FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
        if kind == fcntl.F_UNLCK:
            break
        stop = min(low + size, end) if size else end
        found += [*locked(file, at, low), (max(low, at), stop)]
        at = stop
    return sorted(found)


def take(file: int, gaps: list[tuple[int, int]], wanted: int) -> int:
    """Lock up to `wanted` bytes of the gaps, the last ones first, whole pages; returns how many."""
    got = 0
    for low, high in sorted(gaps, reverse=True):
        low = -(-low // PAGE) * PAGE
        size = min(wanted - got, high - low) // PAGE * PAGE
        if size <= 0:
            continue
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, high - size, size, 0))
        except OSError as error:
            if error.errno != errno.EAGAIN:  # somebody was faster
                raise
            continue
        got += size
    return got


def main(path: str) -> None:
    """Be ready, wait for the word, take, and look again for ever."""
    keep, look = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    size = os.fstat(look).st_size
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    words = sys.stdin.readline().split()
    headroom, rate = int(words[0]), float(words[1])
    began, held = time.monotonic(), 0
    answered = False
    while True:
        edges = [0, *[edge for one in locked(look, 0, size) for edge in one], size]
        gaps = [(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if high > low]
        free = sum(high - low for low, high in gaps)
        allowed = rate * (time.monotonic() - began) - held if rate else free
        held += take(keep, gaps, int(min(free - headroom, allowed)))
        if not answered:
            sys.stdout.write(f"{held}\n")
            sys.stdout.flush()
            answered = True
        time.sleep(LOOK_S)


main(sys.argv[1])
