"""What an announcement costs: when nothing listens, and when a listener answers at once. `python bench/seam.py`."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import timeit

from rlhf import seam


def answer_for_ever(server: socket.socket) -> None:
    """Answer every announcement with its number."""
    stream, _ = server.accept()
    for number, _ in enumerate(stream.makefile("rb"), start=1):
        stream.sendall(b'{"seq": %d}\n' % number)


def cost_s(calls: int) -> float:
    """Seconds a call, the best of five."""
    return min(timeit.repeat(lambda: seam.reach("rollout", 7, "enter"), number=calls, repeat=5)) / calls


def main() -> None:
    os.environ.pop("STAGE_SOCKET", None)
    seam.announce_as("controller")
    print(f"nothing listens: {cost_s(200_000) * 1e9:.0f} ns a call (at most 1000)")
    with tempfile.TemporaryDirectory() as folder:
        server = socket.socket(socket.AF_UNIX)
        server.bind(f"{folder}/s")
        server.listen()
        threading.Thread(target=answer_for_ever, args=(server,), daemon=True).start()
        os.environ["STAGE_SOCKET"] = f"{folder}/s"
        seam.announce_as("controller")
        print(f"a listener answers: {cost_s(2_000) * 1e6:.0f} us a call")


if __name__ == "__main__":
    main()
