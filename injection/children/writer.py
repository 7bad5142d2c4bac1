"""Writes to a file system: `writer.py FOLDER`, then one line `BYTES_PER_S BLOCK_BYTES SYNC` (SYNC 1: fsync after each block).

A file without a name, written over and over; it keeps to its rate by its own book, and what it could not write is forgotten.
"""

import os
import sys
import time

SPAN = 4 << 20
DEBT_S = 0.25


def main(folder: str) -> None:
    """Be ready, wait for the word, write for ever."""
    file = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    words = sys.stdin.readline().split()
    rate, size, sync = float(words[0]), int(words[1]), words[2] == "1"
    block, at, due = bytes(size), 0, time.monotonic()
    while True:
        os.pwrite(file, block, at)
        if sync:
            os.fsync(file)
        at = (at + size) % max(SPAN, size)
        due = max(due + size / rate, time.monotonic() - DEBT_S)
        time.sleep(max(0.0, due - time.monotonic()))


main(sys.argv[1])
