"""Holds memory that is nobody's address space: `ballast.py OOM_SCORE_ADJ`, then one line `BYTES BYTES_PER_S` (0 = at once).

A file without a name, allocated and never mapped. Holding it costs no CPU time; it is free when this process ends.
"""

import os
import sys
import time
from pathlib import Path

STEP_S = 0.05


def main(badness: str) -> None:
    """Be ready, wait for the word, fill, hold."""
    Path("/proc/self/oom_score_adj").write_text(badness)
    store = os.memfd_create("", 0)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    words = sys.stdin.readline().split()
    wanted, rate = int(words[0]), float(words[1])
    held, began = 0, time.monotonic()
    while held < wanted:
        goal = min(wanted, int(rate * (time.monotonic() - began))) if rate else wanted
        if goal > held:
            os.posix_fallocate(store, held, goal - held)
            held = goal
        else:
            time.sleep(STEP_S)
    while True:
        time.sleep(3600)


main(sys.argv[1])
