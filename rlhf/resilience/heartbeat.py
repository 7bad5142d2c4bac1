"""Heartbeats over gRPC: a client says every interval that it lives; the server's failure detector listens."""

from __future__ import annotations

import logging
import threading

import grpc

from rlhf.resilience.failure_detector import Cadence, FailureDetector
from rlhf.resilience.grpc_json import JsonClient, Message, serve

logger = logging.getLogger(__name__)

SERVICE = "trainer.Heartbeat"
BEAT = "Beat"


def serve_heartbeats(address: str, detector: FailureDetector) -> tuple[grpc.Server, str]:
    """Take beats at ``host:port`` for ``detector``; the server and its address. Raises OSError."""

    def beat(message: Message) -> Message:
        client, number = message.get("client"), message.get("number")
        if not isinstance(client, str) or not isinstance(number, int):
            raise ValueError("a beat names its client and its number")  # noqa: TRY004 - the caller's value, not our type
        return {"number": number, "counts": detector.beat(client, paused=message.get("paused") is True)}

    return serve(address, SERVICE, {BEAT: beat})


class HeartbeatSender:
    """Beats in a thread that ends with the process. A beat that fails is not repeated: the next one follows soon enough."""

    def __init__(self, client: str, address: str, cadence: Cadence):
        self._client, self._cadence = client, cadence
        self._server = JsonClient(address, SERVICE)
        self._number = 0
        self._paused = False
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

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
        self._ending = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._server.close()

    def beat(self) -> bool:
        """Send one beat; whether it was answered and counts."""
        self._number += 1
        message = {"client": self._client, "number": self._number, "paused": self._paused}
        try:
            answer = self._server.call(BEAT, message, self._cadence.interval_s)
        except (ConnectionError, ValueError) as error:
            logger.debug("beat %d is lost: %s", self._number, error)
            return False
        logger.debug("beat %d: %s", self._number, answer)
        return answer.get("counts") is True

    def _run(self) -> None:
        while not self._ending:
            self.beat()
            self._wake.wait(self._cadence.interval_s)
            self._wake.clear()
