"""A client's side of heartbeats over gRPC: it says every interval that it lives, and hears who else does."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from rlhf.resilience.failure_detector import Cadence
from rlhf.resilience.grpc_client import GrpcClient
from rlhf.resilience.neighbours import Neighbours
from rlhf.resilience.retry import GRPC_SEND, RetryPolicy

logger = logging.getLogger(__name__)

SERVICE = "trainer.Heartbeat"
BEAT = "Beat"


class HeartbeatSender:
    """Beats in a thread that ends with the process.

    A beat that is not answered is sent again as ``retry`` says. When that was in vain the ``peer`` is offline, which is said
    once; from then on its standard health service is asked, once an interval, and beats begin again when it serves.
    """

    def __init__(self, client: str, peer: str, server: GrpcClient, cadence: Cadence, retry: RetryPolicy | None = GRPC_SEND):
        self._client, self._peer, self._server, self._cadence = client, peer, server, cadence
        dice = random.Random(client)  # noqa: S311 - jitter is no secret
        self._neighbours = Neighbours([peer], self._transport, retry, sleep=self._sleep, dice=dice)
        self._number, self._tries, self._answered = 0, 0, 0
        self._paused = False
        self._wake, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._offline: frozenset[str] = frozenset()
        #: Told with each answer when (monotonic seconds) that was asked, and which neighbours are offline.
        self.heard: Callable[[float, frozenset[str]], None] = lambda *_: None
        #: Told after each beat what became of it.
        self.told: Callable[[dict[str, float]], None] = lambda _: None

    def start(self) -> None:
        self._thread.start()

    def pause(self) -> None:
        """From the next beat, which is sent at once, be off but not dead."""
        self._paused = True
        self._wake.set()

    def resume(self) -> None:
        """Be there again, and say so at once."""
        self._paused = False
        self._wake.set()

    def stop(self) -> None:
        """Send no more; returns when the thread has ended."""
        self._end.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._server.close()

    def beat(self) -> bool:
        """Send one beat, or look whether a lost server is back; whether a beat was answered."""
        if not self._neighbours.is_alive(self._peer):
            if not self._server.healthy(self._cadence.interval_s):
                return False
            self._neighbours.mark_online(self._peer)
        self._number, self._tries, before = self._number + 1, 0, self._answered
        self._neighbours.send(self._peer, {"client": self._client, "number": self._number, "paused": self._paused})
        answered = self._answered > before
        self.told({"answered_count": answered, "lost_count": not answered, "retries": max(self._tries - 1, 0)})
        return answered

    def _transport(self, _: str, message: dict[str, Any]) -> None:
        """One try. Raises ConnectionError."""
        self._tries += 1
        asked_s = time.monotonic()
        try:
            answer = self._server.call(BEAT, message, self._cadence.interval_s)
        except ValueError as error:  # it is there, but not what beats are for
            raise ConnectionError(str(error)) from error
        self._answered += 1
        offline = frozenset(answer.get("offline", ()))
        if offline != self._offline:
            logger.info("neighbours that are offline: %s", ", ".join(sorted(offline)) or "none")
            self._offline = offline
        self.heard(asked_s, offline)

    def _sleep(self, seconds: float) -> None:
        self._end.wait(seconds)

    def _run(self) -> None:
        while not self._end.is_set():
            due = time.monotonic() + self._cadence.interval_s
            self.beat()
            self._wake.wait(max(due - time.monotonic(), 0.0))
            self._wake.clear()
