"""Processes of the job that are lost are started again, and what failed for want of them is done once more.

An act of the loop (an update, a rollout, a save) may be repeated: with the same step and weights it gives the same. Training
may not, so train workers that come back also take their state back: to where it was before, or to the latest checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from rlhf.errors import EngineError, FrameworkError
from rlhf.resilience.breaker import CircuitBreaker
from rlhf.resilience.restart_metrics import RestartMetrics
from rlhf.resilience.restart_protocol import RestartSettings
from rlhf.resilience.retry import RetryPolicy
from rlhf.resilience.supervisor import BACKOFF
from rlhf.rpc import RpcError
from rlhf.stats import StatsTracker

logger = logging.getLogger(__name__)

T = TypeVar("T")
#: Restarts of one component within WINDOW_S (real seconds) before it is left for lost.
LIMIT = 3
WINDOW_S = 600.0


class Restarter(Protocol):
    """Who has processes ended and started: the scheduler's client."""

    def ended(self) -> list[str]: ...
    def restart_workers(self, components: Sequence[str], wait_s: float) -> None: ...


class Hand(Protocol):
    """Who has the engines: the controller's hand on the workers of one role."""

    def lost(self) -> list[str]: ...
    def retire(self, lost: Sequence[str]) -> list[str]: ...
    def leave(self, component: str) -> bool: ...
    def renew(self, restarted: set[str]) -> None: ...


class Revival:
    """Repeats acts whose failure is the loss of a process. Figures of the restarts go to the stats.

    A component is started again at once the first time; each time after that is preceded by a wait of `backoff`.
    """

    def __init__(
        self,
        restarter: Restarter,
        hands: Sequence[Hand],
        settings: RestartSettings,
        stats: StatsTracker,
        backoff: RetryPolicy = BACKOFF,
    ):
        self._restarter, self._hands, self._settings, self._stats = restarter, hands, settings, stats
        self._backoff = backoff
        self._breakers: dict[str, CircuitBreaker] = {}
        self._restarts: Counter[str] = Counter()
        #: Those that were restarted too often and can be done without.
        self._left: set[str] = set()
        self._metrics = RestartMetrics()
        #: What each hand has yet to make engines of; what it has made it must not make again when another one fails.
        self._unmade: list[set[str]] = [set() for _ in hands]

        self._tell()

    def survive(self, act: Callable[[], T]) -> T:
        """What `act` returns, in the end. Raises what it raised when nothing is lost, or is lost in vain or too often."""
        while True:
            try:
                self._renew()
                return act()
            except EngineError as error:
                lost = self._lost(error)
                if not lost:
                    raise
                self._restart(lost, error)

    def _lost(self, error: EngineError) -> list[str]:
        """Who has ended or answers nobody; else, if the error is that a call had no answer in time, who was called.

        An event without an answer condemns nobody: its receiver may be at work, and whoever needs it to be heard says so.
        """
        try:
            names = {*self._restarter.ended(), *(name for hand in self._hands for name in hand.lost())}
        except FrameworkError as unknown:
            raise error from unknown
        cause = error.__cause__
        names -= self._left
        if not names and isinstance(cause, RpcError) and cause.status == 0 and error.sub_error != "NotifyEventError":
            names = {cause.component}
        return sorted(names - self._left)

    def _restart(self, lost: list[str], cause: EngineError) -> None:
        """Start the lost again, then those that cannot go on without them. Raises `cause` where that is refused or in vain.

        One that is lost too often is left, where the job can do without it; then what failed is done again without it.
        """
        lost = [component for component in lost if self._allow(component, cause)]
        if not lost:
            return
        start, succeeded = time.monotonic(), False
        logger.warning("%s lost and will be restarted: %s", _are(lost), cause)
        time.sleep(max(self._wait_s(component) for component in lost))
        try:
            self._start(lost)
            for hand in self._hands:
                self._start(hand.retire(lost))
            succeeded = True
        except FrameworkError as error:
            logger.warning("%s could not be restarted: %s", ", ".join(lost), error)
            raise cause from error
        finally:
            self._metrics.restarted(time.monotonic(), succeeded=succeeded)
            self._tell()
        logger.info("%s listening again after %.2fs", _are(lost), time.monotonic() - start)

    def _tell(self) -> None:
        """Restarts so far, none included; what is told of requests is for clients of a server."""
        figures = {name: value for name, value in self._metrics.figures().items() if name.startswith("restart")}
        self._stats.scalar("", self._stats.step, **figures)

    def _allow(self, component: str, cause: EngineError) -> bool:
        """Count a restart of a component; false where it was restarted too often of late, but the job can do without it.

        Raises `cause` where it cannot, or when restarts are switched off.
        """
        breaker = self._breakers.setdefault(component, CircuitBreaker(LIMIT, WINDOW_S, WINDOW_S))
        if not self._settings.enabled:
            raise cause
        if not breaker.allow():
            logger.error(
                "restart loop: %s was restarted %d times within %.0f s and is left for lost", component, LIMIT, WINDOW_S
            )
            if not any(hand.leave(component) for hand in self._hands):
                raise cause
            self._left.add(component)
            return False
        breaker.failed()
        return True

    def _wait_s(self, component: str) -> float:
        """Before this restart of a component, which is counted."""
        before = self._restarts[component]
        self._restarts[component] += 1
        return self._backoff.wait_s(before - 1) if before else 0.0

    def _start(self, components: Sequence[str]) -> None:
        if components:
            self._restarter.restart_workers(components, self._settings.wait_s)
            for unmade in self._unmade:
                unmade.update(components)

    def _renew(self) -> None:
        """Have the engines made of whatever was started again since. Raises EngineError; then they are still to be made."""
        for hand, unmade in zip(self._hands, self._unmade, strict=True):
            hand.renew(unmade)
            unmade.clear()


def _are(components: list[str]) -> str:
    return f"{', '.join(components)} {'is' if len(components) == 1 else 'are'}"
