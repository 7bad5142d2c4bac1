"""Links of a job that lead over a relay of the test's own."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path


def redirect(job_dir: Path, link: str, over: Callable[[str], str]) -> None:
    """Let a link of the job's name table lead to what ``over`` makes of its address."""
    path = job_dir / "addresses.json"
    table = json.loads(path.read_text())
    table["dial"][link] = over(table["dial"][link])
    path.write_text(json.dumps(table))


def slow_link(address: str, bytes_per_s: float) -> str:
    """A relay to ``address`` that is slow in sending there; its own address."""
    server = socket.create_server(("127.0.0.1", 0))
    host, _, port = address.rpartition(":")

    def accept() -> None:
        while True:
            near, _ = server.accept()
            far = socket.create_connection((host, int(port)))
            for ends in ((near, far, bytes_per_s), (far, near, 1e9)):
                threading.Thread(target=_throttle, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return "{}:{}".format(*server.getsockname())


def _throttle(source: socket.socket, sink: socket.socket, bytes_per_s: float) -> None:
    """Pass bytes on at a rate, until either end is closed."""
    with contextlib.suppress(OSError):
        while part := source.recv(4096):
            time.sleep(len(part) / bytes_per_s)
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)


def deaf_once(address: str) -> str:
    """A relay to ``address`` that passes nothing on of its first connection; its own address."""
    server = socket.create_server(("127.0.0.1", 0))
    host, _, port = address.rpartition(":")

    def accept() -> None:
        deaf = server.accept()  # kept open for good
        while deaf:
            near, _ = server.accept()
            far = socket.create_connection((host, int(port)))
            for ends in ((near, far, 1e9), (far, near, 1e9)):
                threading.Thread(target=_throttle, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return "{}:{}".format(*server.getsockname())
