"""How long a call may take, learned from how long it took: an upper prediction bound for the next healthy duration.

Durations are taken as log-normal; median and median absolute deviation stand for mean and deviation, so that a few stalls among
the healthy ones do not stretch the bound. A learned bound only ever shortens the configured time-out.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from statistics import median

#: How much a normal sample's median absolute deviation is less than its standard deviation.
MAD_TO_SIGMA = 1.4826


class LearnedDeadline:
    """One call's durations in seconds, the newest `window`; the first `warm_up` are forgotten (caches are cold then)."""

    def __init__(self, warm_up: int = 1, least: int = 5, window: int = 200, sigmas: float = 6.0, least_sigma: float = 0.25):
        self._skip, self._least = warm_up, least
        self._sigmas, self._least_sigma = sigmas, least_sigma
        self._logs: deque[float] = deque(maxlen=window)
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Learn from a call that went well."""
        with self._lock:
            if self._skip:
                self._skip -= 1
            else:
                self._logs.append(math.log(max(seconds, 1e-6)))

    def bound_s(self) -> float:
        """Above this the next duration is not a healthy one; infinite until enough were seen."""
        with self._lock:
            logs = list(self._logs)
        count = len(logs)
        if count < self._least:
            return math.inf
        centre = median(logs)
        spread = MAD_TO_SIGMA * median(abs(value - centre) for value in logs)
        return math.exp(centre + self._sigmas * max(spread, self._least_sigma) * math.sqrt(1.0 + 1.0 / count))

    def limit_s(self, configured_s: float, floor_s: float) -> float:
        """The time-out to use: the bound, but neither above the configured one nor below the floor."""
        return min(configured_s, max(self.bound_s(), floor_s))
