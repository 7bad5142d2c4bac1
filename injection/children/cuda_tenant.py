"""Shares a CUDA device's memory: `cuda_tenant.py ORDINAL`, then one line `HEADROOM_BYTES BYTES_PER_S` (0 = at once).

A torch process that allocates until no more than the headroom is free, and holds it idle. Its own context costs some hundred
MiB from the start, which the job sees in every arm that has such a fault.
"""

import sys
import time

import torch

STEP_S = 0.05
#: Allocations are made in pieces, so that a hole in the middle is found as well.
PIECE = 64 << 20


def main(ordinal: int) -> None:
    """Be ready, wait for the word, take, hold."""
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} finds no CUDA device here")
    device = torch.device("cuda", ordinal % torch.cuda.device_count())
    torch.cuda.mem_get_info(device)  # makes the context
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    words = sys.stdin.readline().split()
    headroom, rate = int(words[0]), float(words[1])
    kept, held, began = [], 0, time.monotonic()
    answered = False
    while True:
        allowed = int(rate * (time.monotonic() - began)) - held if rate else sys.maxsize
        wanted = min(torch.cuda.mem_get_info(device)[0] - headroom, allowed)
        while wanted > 0:
            size = min(PIECE, wanted)
            kept.append(torch.empty(size, dtype=torch.uint8, device=device))
            held, wanted = held + size, wanted - size
        if not answered:
            sys.stdout.write(f"{held}\n")
            sys.stdout.flush()
            answered = True
        time.sleep(STEP_S)


main(int(sys.argv[1]))
