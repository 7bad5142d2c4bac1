"""Uses a share of one core, from the first line it is told on: `spin.py CORE SHARE`, SHARE in (0, 1].

The loop is closed over its own CPU time: where others have kept it from its share it catches up, by at most DEBT_S.
"""

import os
import sys
import time

#: How long it counts before it looks at the clocks again, and the longest time it stays away: short against what a
#: victim notices, long against what a switch costs.
SLICE_S = 0.001
DEBT_S = 0.25


def main(core: int, share: float) -> None:
    """Wait for the word, then hold the share for ever."""
    os.sched_setaffinity(0, {core})
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    begun = time.monotonic() - time.process_time() / share
    while True:
        ahead = time.process_time() - share * (time.monotonic() - begun)
        if ahead > 0:
            time.sleep(ahead / share)
        elif ahead < -DEBT_S:
            begun += (-ahead - DEBT_S) / share
        until = time.process_time() + SLICE_S
        while time.process_time() < until:
            pass


main(int(sys.argv[1]), float(sys.argv[2]))
