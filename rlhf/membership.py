"""Which workers are there, as the controller knows by their beats, and what follows when one is not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from rlhf.config import JobConfig
from rlhf.errors import FrameworkError
from rlhf.links import listen_address
from rlhf.resilience.failure_detector import Cadence, FailureDetector
from rlhf.resilience.heartbeat_server import serve_heartbeats
from rlhf.stats import StatsTracker
from rlhf.topology import role_and_rank
from storage.records import RANKED_ROLES

logger = logging.getLogger(__name__)


class Membership:
    """Listens to beats from its making on, and judges from `begin` on. For many threads at once.

    Workers count for `min_clients_threshold`; whoever else beats is only told of. Raises OSError when the address is taken.
    """

    def __init__(self, config: JobConfig, stats: StatsTracker):
        self._config, self._stats = config, stats
        self._acts: list[Callable[[str], None]] = []
        cadence = Cadence.scaled(config.time_scale)
        self._detector = FailureDetector(cadence, config.min_clients_threshold, told=self._changed)
        self._server, _ = serve_heartbeats("{}:{}".format(*listen_address("controller", "beat")), self._detector)

    def begin(self, components: Iterable[str]) -> None:
        """All of these are there now; begin to judge."""
        self.expect(components)
        self._detector.start(self._record)

    def expect(self, components: Iterable[str]) -> None:
        """Take these for online from now on: they have just been started, or started again."""
        for component in components:
            self._detector.expect(component, counts=role_and_rank(component)[0] in RANKED_ROLES)

    def absence(self, components: Iterable[str]) -> str:
        """Why the first of these that is offline is so; empty when all are online."""
        return next(filter(None, map(self._detector.absence, components)), "")

    def mark_offline(self, component: str, reason: str) -> None:
        """A component cannot be reached; its next beat brings it back."""
        self._detector.mark_offline(component, reason)

    def when_lost(self, act: Callable[[str], None]) -> None:
        """Have ``act`` told of each component that goes offline, and again after each check while it is."""
        self._acts.append(act)

    def wait_for_enough(self) -> None:
        """Pause while fewer workers are online than `min_clients_threshold`. Raises FrameworkError at a bound of its own."""
        if self._detector.enough():
            return
        start, bound_s = time.monotonic(), self._config.timeout_s("min_clients")
        try:
            if not self._detector.wait_for_enough(bound_s):
                needed, offline = self._config.min_clients_threshold, ", ".join(self._detector.offline())
                text = f"training has paused for {bound_s:.1f}s: fewer than {needed} workers are online; offline: {offline}"
                raise FrameworkError("MinClientsError", text)
        finally:
            self._stats.scalar("", self._stats.step, **{"heartbeat/paused_s": time.monotonic() - start})

    def close(self) -> None:
        """Listen and judge no more: workers are about to be ended."""
        self._detector.stop()
        self._server.stop(None)

    def _changed(self, component: str) -> None:
        lost = bool(self._detector.absence(component))
        name = "heartbeat/offline_count" if lost else "heartbeat/rejoin_count"
        self._stats.scalar_about(component, "", self._stats.step, **{name: 1})
        if lost:
            self._tell_lost(component)

    def _tell_lost(self, component: str) -> None:
        for act in self._acts:
            act(component)

    def _record(self) -> None:
        """After a check: what was heard of whom. A call begun just when its callee was lost is ended now."""
        step = self._stats.step
        for seen in self._detector.sightings():
            figures = {"heartbeat/heard_count": seen.beats, "heartbeat/missed_count": seen.missed}
            self._stats.scalar_about(seen.client, "", step, **figures)
        self._stats.scalar("", step, **{"heartbeat/online_count": len(self._detector.alive())})
        for component in self._detector.offline():
            self._tell_lost(component)
