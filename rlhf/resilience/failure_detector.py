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
    counts: bool = True
    online: bool = True
    paused: bool = False
    beats: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Sighting:
    """What was heard of a client since the last sighting: beats, and beats that are late by more than half an interval."""

    client: str
    beats: int
    missed: int


class FailureDetector:
    """The server's view of its clients. Detection lies in (timeout, timeout + interval] after the last beat.

    ``min_clients``: with fewer of them alive training should pause; ask `enough` or `wait_for_enough`. With ``rejoin`` a beat
    brings an offline client back; without, it stays out for good. ``told`` hears whose state has changed.
    """

    def __init__(
        self,
        cadence: Cadence,
        min_clients: int = 0,
        *,
        rejoin: bool = True,
        clock: Callable[[], float] = time.monotonic,
        told: Callable[[str], None] = lambda _: None,
    ):
        self.cadence = cadence
        self._min_clients, self._rejoin, self._clock, self._told = min_clients, rejoin, clock, told
        self._clients: dict[str, _Client] = {}
        self._waiting = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def expect(self, client: str, *, counts: bool = True) -> None:
        """Count the time of a client from now, as if it had just spoken; ``counts``: whether it is one of those needed."""
        with self._changed:
            self._clients[client] = _Client(self._clock(), counts)
            self._changed.notify_all()

    def beat(self, client: str, *, paused: bool = False) -> bool:
        """A beat has arrived; whether it counts (not from a client that is out for good)."""
        with self._changed:
            known = self._clients.setdefault(client, _Client(self._clock()))
            back = not known.online
            if back and not self._rejoin:
                return False
            known.last_s, known.online, known.paused = self._clock(), True, paused
            known.beats += 1
            self._changed.notify_all()
        if back:
            logger.info("%s is back", client)
            self._told(client)
        logger.debug("beat of %s%s", client, ", pausing" if paused else "")
        return True

    def check(self) -> list[str]:
        """Find those that became offline since the last check, and say so, once each."""
        with self._changed:
            now = self._clock()
            silent = {
                name: now - client.last_s
                for name, client in self._clients.items()
                if client.online and not client.paused and now - client.last_s > self.cadence.timeout_s
            }
            for name, seconds in silent.items():
                self._lose(name, f"no beat for {seconds:.1f} s")
        for name in silent:
            self._say_lost(name)
        return list(silent)

    def mark_offline(self, client: str, reason: str) -> bool:
        """Take a client for lost for another reason than its silence; whether that is new. Only then it is said."""
        with self._changed:
            known = self._clients.get(client)
            if known is None or not known.online:
                return False
            self._lose(client, reason)
        self._say_lost(client)
        return True

    def _lose(self, client: str, reason: str) -> None:
        self._clients[client].online, self._clients[client].reason = False, reason
        self._changed.notify_all()

    def _say_lost(self, client: str) -> None:
        logger.warning("%s is offline: %s", client, self._clients[client].reason)
        self._told(client)

    def alive(self) -> list[str]:
        """Names of those that are online, paused ones among them, in order of appearance."""
        with self._changed:
            return [name for name, client in self._clients.items() if client.online]

    def offline(self) -> list[str]:
        """Names of those that are not."""
        with self._changed:
            return [name for name, client in self._clients.items() if not client.online]

    def absence(self, client: str) -> str:
        """Why a client is offline, as a sentence; empty if it is not, or was never heard of."""
        with self._changed:
            known = self._clients.get(client)
            return "" if known is None or known.online else f"{client} is offline: {known.reason}"

    def sightings(self) -> list[Sighting]:
        """What was heard of each client since this was last asked."""
        with self._changed:
            now, seen = self._clock(), []
            for name, client in self._clients.items():
                missed = int((now - client.last_s) / self.cadence.interval_s - 0.5)
                seen.append(Sighting(name, client.beats, 0 if client.paused else max(missed, 0)))
                client.beats = 0
            return seen

    def enough(self) -> bool:
        """Whether training may go on."""
        with self._changed:
            return self._counted() >= self._min_clients

    def wait_for_enough(self, timeout_s: float | None = None) -> bool:
        """Pause until enough clients are alive, at most ``timeout_s`` real seconds; whether they are."""
        with self._changed:
            if self._counted() >= self._min_clients:
                return True
            if not self._waiting:
                logger.info("training pauses: %d of %d clients needed are alive", self._counted(), self._min_clients)
            self._waiting += 1
            enough = self._changed.wait_for(lambda: self._counted() >= self._min_clients, timeout_s)
            self._waiting -= 1
            if enough and not self._waiting:
                logger.info("training resumes: %d clients are alive", self._counted())
            return enough

    def start(self, checked: Callable[[], None] = lambda: None) -> None:
        """Check every interval, in a thread that ends with the process; ``checked`` is called after each check."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(checked,), name="heartbeat-checker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End checking; waits for a check that is under way, an interval at most."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self.cadence.interval_s)

    def _run(self, checked: Callable[[], None]) -> None:
        due = self._clock() + self.cadence.interval_s
        while not self._stop.wait(max(due - self._clock(), 0.0)):
            self._forgive(self._clock() - due)
            due = self._clock() + self.cadence.interval_s
            self.check()
            checked()

    def _forgive(self, late_s: float) -> None:
        """A process that stood still itself has heard nobody meanwhile: that time is nobody's silence."""
        if late_s > self.cadence.interval_s:
            with self._changed:
                for client in self._clients.values():
                    client.last_s += late_s

    def _counted(self) -> int:
        return sum(client.online and client.counts for client in self._clients.values())
