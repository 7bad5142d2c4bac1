"""Starts a server again whenever it ends, whatever its exit code; waits longer each time, and pauses in a restart loop."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from rlhf.resilience.breaker import CircuitBreaker
from rlhf.resilience.retry import RetryPolicy

logger = logging.getLogger(__name__)

#: Five seconds at first, a minute at most. The number of tries is the breaker's matter.
BACKOFF = RetryPolicy(attempts=1, base_s=5.0, cap_s=60.0)
#: A process that lived this long has started well, seconds.
STABLE_S = 120.0
GRACE_S = 10.0


class Supervisor:
    """Keeps one process of ``argv`` running, from `start` to `stop`."""

    def __init__(
        self,
        argv: Sequence[str],
        breaker: CircuitBreaker,
        backoff: RetryPolicy = BACKOFF,
        stable_s: float = STABLE_S,
        *,
        env: dict[str, str] | None = None,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._argv, self._env = list(argv), env
        self._breaker, self._backoff, self._stable_s = breaker, backoff, stable_s
        self._wait, self._clock = wait, clock
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self.run, name="supervisor", daemon=True)
        self.exit_codes: list[int] = []

    def start(self) -> None:
        """Supervise in a thread. The process itself must be ended by `stop`."""
        self._thread.start()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Start it no more and end it: by SIGTERM, after ``grace_s`` by SIGKILL."""
        self._ending.set()
        with self._lock:
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._thread.is_alive():
            self._thread.join()

    def run(self) -> None:
        """Start and wait, until `stop`. A process that cannot be started counts as one that ended."""
        quick = 0
        while not self._ending.is_set():
            if not self._breaker.allow():
                self._wait(self._ending, self._breaker.wait_s())
                continue
            lived_s = self._run_once()
            if self._ending.is_set():
                return
            if lived_s >= self._stable_s:
                quick = 0
                self._breaker.succeeded()
            self._breaker.failed()
            self._pause(quick)
            quick += 1

    def _run_once(self) -> float:
        """One life of the process; its seconds."""
        start = self._clock()
        try:
            with self._lock:
                if self._ending.is_set():
                    return 0.0
                self._process = subprocess.Popen(self._argv, env=self._env)
        except OSError as error:
            logger.warning("%s cannot be started: %s", self._argv[0], error)
            return 0.0
        self.exit_codes.append(self._process.wait())
        return self._clock() - start

    def _pause(self, quick: int) -> None:
        """Wait before the next start, or say that there will be none for a while."""
        code = self.exit_codes[-1] if self.exit_codes else None
        if self._breaker.state == "open":
            wait_s = self._breaker.wait_s()
            logger.error("restart loop: ended with code %s again; not started for %.0f s", code, wait_s)
            return
        wait_s = self._backoff.wait_s(quick)
        logger.warning("ended with code %s; started again in %.1f s", code, wait_s)
        self._wait(self._ending, wait_s)
