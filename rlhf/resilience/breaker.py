"""A circuit breaker: after too many failures in a window nothing is tried for a while, then one trial decides."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class CircuitBreaker:
    """Opens at the ``limit``-th failure within ``window_s``; lets one trial through after ``cool_s``. Seconds."""

    def __init__(
        self, limit: int = 5, window_s: float = 600.0, cool_s: float = 600.0, clock: Callable[[], float] = time.monotonic
    ):
        self._limit, self._window_s, self._cool_s, self._clock = limit, window_s, cool_s, clock
        self._failures: deque[float] = deque(maxlen=limit)
        self._opened_s: float | None = None
        self._trying = False

    @property
    def state(self) -> str:
        """One of closed, open and half-open."""
        if self._opened_s is None:
            return "closed"
        return "half-open" if self._trying or self.wait_s() <= 0 else "open"

    def wait_s(self) -> float:
        """Seconds until something may be tried."""
        if self._opened_s is None:
            return 0.0
        return max(self._opened_s + self._cool_s - self._clock(), 0.0)

    def allow(self) -> bool:
        """Whether to try now. In half-open state only the first who asks may."""
        if self._opened_s is None:
            return True
        if self._trying or self.wait_s() > 0:
            return False
        self._trying = True
        return True

    def failed(self) -> None:
        """A trial has failed."""
        now = self._clock()
        self._failures.append(now)
        full = len(self._failures) == self._limit and now - self._failures[0] <= self._window_s
        if self._trying or full:
            self._opened_s, self._trying = now, False

    def succeeded(self) -> None:
        """A trial has gone well: everything is forgiven."""
        self._failures.clear()
        self._opened_s, self._trying = None, False
