"""A lost worker is started again by the scheduler, at most a few times in a row; how often, and whether it helped, is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rlhf.errors import FrameworkError
from rlhf.resilience.breaker import CircuitBreaker
from rlhf.resilience.restart_metrics import RestartMetrics
from rlhf.resilience.restart_protocol import RestartSettings
from rlhf.stats import StatsTracker

logger = logging.getLogger(__name__)

#: Restarts of one worker within WINDOW_S (real seconds) before it is left for lost.
LIMIT = 3
WINDOW_S = 600.0


class Revival:
    """Calls ``restart_worker(component, wait_s)``, which returns when the worker listens again, and keeps the figures."""

    def __init__(self, restart_worker: Callable[[str, float], None], settings: RestartSettings, stats: StatsTracker):
        self._restart_worker, self._settings, self._stats = restart_worker, settings, stats
        self._breakers: dict[str, CircuitBreaker] = {}
        self._metrics = RestartMetrics()

    def restart(self, component: str, cause: Exception) -> None:
        """Have a worker started again because of ``cause``, which is raised if that is switched off, in vain, or too often."""
        breaker = self._breakers.setdefault(component, CircuitBreaker(LIMIT, WINDOW_S, WINDOW_S))
        if not self._settings.enabled:
            raise cause
        if not breaker.allow():
            logger.error(
                "restart loop: %s was restarted %d times within %.0f s and is left for lost", component, LIMIT, WINDOW_S
            )
            raise cause
        breaker.failed()
        start, succeeded = time.monotonic(), False
        logger.warning("%s is lost and will be restarted: %s", component, cause)
        try:
            self._restart_worker(component, self._settings.wait_s)
            succeeded = True
        except FrameworkError as error:
            logger.warning("%s could not be restarted: %s", component, error)
            raise cause from error
        finally:
            self._metrics.restarted(time.monotonic(), succeeded=succeeded)
            self._stats.scalar("rollout", self._stats.step, **self._metrics.figures())
        logger.info("%s listens again after %.2fs", component, time.monotonic() - start)
