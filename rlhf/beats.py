"""A worker's beats: sent to the controller by a thread, as long as the process lives, and what the answers tell."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rlhf.config import JobConfig
from rlhf.links import LinkSession, dial
from rlhf.resilience.failure_detector import Cadence
from rlhf.resilience.grpc_client import GrpcClient
from rlhf.resilience.heartbeat import SERVICE, HeartbeatSender
from rlhf.resilience.retry import GRPC_SEND
from rlhf.stats import StatsTracker

_sender: HeartbeatSender | None = None
_asked_s, _offline = 0.0, frozenset[str]()
_waits: dict[object, tuple[float, str, LinkSession]] = {}


def start(component: str, config: JobConfig, stats: StatsTracker) -> None:
    """Beat until this process ends, over a link of the component's own."""
    global _sender

    def told(figures: dict[str, float]) -> None:
        stats.scalar("", stats.step, **{f"heartbeat/{name}": value for name, value in figures.items()})

    server = GrpcClient(partial(dial, component, "controller", "beat"), SERVICE)
    retry = GRPC_SEND.scaled(config.time_scale)
    _sender = HeartbeatSender(component, "controller", server, Cadence.scaled(config.time_scale), retry)
    _sender.told, _sender.heard = told, _hear
    _sender.start()


def offline(since_s: float) -> frozenset[str]:
    """Who is offline, as the controller tells when asked after ``since_s``: who was so before may be back by now."""
    return _offline if _asked_s > since_s else frozenset()


@contextmanager
def unless_offline(peer: str, session: LinkSession) -> Iterator[None]:
    """What is asked of ``peer`` meanwhile fails as a lost connection as soon as the controller tells that it is offline."""
    wait = object()
    _waits[wait] = (time.monotonic(), peer, session)
    try:
        yield
    finally:
        del _waits[wait]


def _hear(asked_s: float, names: frozenset[str]) -> None:
    global _asked_s, _offline
    _asked_s, _offline = asked_s, names
    for since_s, peer, session in list(_waits.values()):
        if peer in names and asked_s > since_s:
            session.cut()
