"""Who is alive, by heartbeats: a client is offline when its last beat is older than the time-out, and that is said once.

Whoever says that it pauses (its device is lent, its weights are offloaded) is off, not dead, and is not timed out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

INTERVAL_NOMINAL_S = 30.0
#: A client may miss two beats; the third makes it offline.
TIMEOUT_INTERVALS = 3
#: No beat is sent more often, however much time is scaled: threads and sockets do not scale.
LEAST_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Cadence:
    """Seconds between two beats (and two checks), and without a beat until offline."""

    interval_s: float = INTERVAL_NOMINAL_S
    timeout_s: float = INTERVAL_NOMINAL_S * TIMEOUT_INTERVALS

    @classmethod
    def scaled(cls, time_scale: float) -> Cadence:
        """30 s and 90 s divided by ``time_scale``; always 1 to 3, and never under a second a beat."""
        interval_s = max(INTERVAL_NOMINAL_S / time_scale, LEAST_INTERVAL_S)
        return cls(interval_s, interval_s * TIMEOUT_INTERVALS)


@dataclass
class _Client:
    last_s: float
    online: bool = True
    paused: bool = False


class FailureDetector:
    """The server's view of its clients. Detection lies in (timeout, timeout + interval] after the last beat.

    ``min_clients``: with fewer of them alive training should pause; ask `enough` or `wait_for_enough`. With ``rejoin`` a beat
    brings an offline client back; without, it stays out for good.
    """

    def __init__(
        self, cadence: Cadence, min_clients: int = 0, *, rejoin: bool = True, clock: Callable[[], float] = time.monotonic
    ):
        self.cadence = cadence
        self._min_clients, self._rejoin, self._clock = min_clients, rejoin, clock
        self._clients: dict[str, _Client] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def expect(self, client: str) -> None:
        """Count the time of a client that has not spoken yet from now."""
        with self._changed:
            self._clients.setdefault(client, _Client(self._clock()))
            self._changed.notify_all()

    def beat(self, client: str, *, paused: bool = False) -> bool:
        """A beat has arrived; whether it counts (not from a client that is out for good)."""
        with self._changed:
            known = self._clients.setdefault(client, _Client(self._clock()))
            if not known.online:
                if not self._rejoin:
                    return False
                logger.info("%s is back", client)
            known.last_s, known.online, known.paused = self._clock(), True, paused
            self._changed.notify_all()
        logger.debug("beat of %s%s", client, ", pausing" if paused else "")
        return True

    def check(self) -> list[str]:
        """Find those that became offline since the last check, and say so, once each."""
        with self._changed:
            now = self._clock()
            lost = {
                name: now - client.last_s
                for name, client in self._clients.items()
                if client.online and not client.paused and now - client.last_s > self.cadence.timeout_s
            }
            for name in lost:
                self._clients[name].online = False
            self._changed.notify_all()
        for name, silent_s in lost.items():
            logger.warning("%s is offline: no beat for %.1f s", name, silent_s)
        return list(lost)

    def alive(self) -> list[str]:
        """Names of those that are online, paused ones among them, in order of appearance."""
        with self._changed:
            return self._alive()

    def is_alive(self, client: str) -> bool:
        return client in self.alive()

    def enough(self) -> bool:
        """Whether training may go on."""
        with self._changed:
            return len(self._alive()) >= self._min_clients

    def wait_for_enough(self, timeout_s: float | None = None) -> bool:
        """Pause until enough clients are alive, at most ``timeout_s`` real seconds; whether they are."""
        with self._changed:
            if len(self._alive()) < self._min_clients:
                logger.info("training pauses: %d of %d clients needed are alive", len(self._alive()), self._min_clients)
                if not self._changed.wait_for(lambda: len(self._alive()) >= self._min_clients, timeout_s):
                    return False
                logger.info("training resumes: %d clients are alive", len(self._alive()))
            return True

    def start(self) -> None:
        """Check every interval, in a thread that ends with the process."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="heartbeat-checker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End checking; returns when it has."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.cadence.interval_s):
            self.check()

    def _alive(self) -> list[str]:
        return [name for name, client in self._clients.items() if client.online]
