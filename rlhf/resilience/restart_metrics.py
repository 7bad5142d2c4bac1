"""How often a server was restarted, and whether it helped."""

from __future__ import annotations

import threading


class RestartMetrics:
    """Counts of one client. For many threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("restarts", "restarts_succeeded", "queued", "replayed", "skipped"), 0)
        self._times_s: list[float] = []

    def count(self, what: str) -> None:
        """One more of ``queued``, ``replayed`` or ``skipped`` requests."""
        with self._lock:
            self._counts[what] += 1

    def restarted(self, at_s: float, *, succeeded: bool) -> None:
        """A restart has ended, at monotonic time ``at_s``."""
        with self._lock:
            self._counts["restarts"] += 1
            self._counts["restarts_succeeded"] += succeeded
            self._times_s.append(at_s)

    def per_hour(self, now_s: float, window_s: float = 3600.0) -> float:
        """Restarts in the last ``window_s``, as a rate an hour."""
        with self._lock:
            return sum(now_s - at_s <= window_s for at_s in self._times_s) * 3600.0 / window_s

    def figures(self) -> dict[str, float]:
        """For the stats: counts, and the share of restarts that brought the server back (only once there were any)."""
        with self._lock:
            figures = {f"{name}_count": float(count) for name, count in self._counts.items()}
            if restarts := self._counts["restarts"]:
                figures["restart_success_ratio"] = self._counts["restarts_succeeded"] / restarts
            return figures
