"""The lab's end of the seam: a unix socket on which the job's processes say where they are, and wait for the answer."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from injection import kernel
from storage.records import StageEvent

#: Told of an event and when it arrived (monotonic seconds); returns when it may be answered (monotonic; 0 = at once).
OnEvent = Callable[[StageEvent, float], float]


class Listener:
    """One thread a client: a client that waits at a barrier keeps nobody else waiting."""

    def __init__(self, path: Path, on_event: OnEvent) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        self._on_event = on_event
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(128)

    def start(self) -> None:
        """Begin to accept, in the background."""
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def close(self) -> None:
        """Listen no more; clients that wait are still answered."""
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), name="client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        kernel.come_first()  # what the job announces may be the point of a fault
        with client, client.makefile("rb") as lines:
            try:
                for line in lines:
                    arrived = time.monotonic()
                    sequence, event = parse(line)
                    hold_until = self._on_event(event, arrived)
                    time.sleep(max(0.0, hold_until - time.monotonic()))
                    client.sendall(json.dumps({"seq": sequence}).encode() + b"\n")
            except (OSError, ValueError, KeyError, TypeError):
                return  # a client that is gone, or talks nonsense, is let go: it fails open on its side


def parse(line: bytes) -> tuple[int, StageEvent]:
    """A line of the seam as its number and the event. Raises ValueError, KeyError or TypeError for anything else."""
    data = json.loads(line)
    event = StageEvent(
        wall_s=float(data["wall_s"]),
        mono_s=float(data["mono_s"]),
        component=str(data["component"]),
        step=int(data["step"]),
        stage=str(data["stage"]),
        phase=str(data["phase"]),
        attrs=dict(data.get("attrs") or {}),
    )
    return int(data["seq"]), event
