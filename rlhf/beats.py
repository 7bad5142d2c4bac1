"""A worker's beats: sent to the controller by a thread, as long as the process lives, and what the answers tell."""

from __future__ import annotations

from functools import partial

from rlhf.config import JobConfig
from rlhf.links import dial
from rlhf.resilience.failure_detector import Cadence
from rlhf.resilience.grpc_client import GrpcClient
from rlhf.resilience.heartbeat import SERVICE, HeartbeatSender
from rlhf.resilience.retry import GRPC_SEND
from rlhf.stats import StatsTracker

_sender: HeartbeatSender | None = None


def start(component: str, config: JobConfig, stats: StatsTracker) -> None:
    """Beat until this process ends, over a link of the component's own."""
    global _sender

    def told(figures: dict[str, float]) -> None:
        stats.scalar("", stats.step, **{f"heartbeat/{name}": value for name, value in figures.items()})

    server = GrpcClient(partial(dial, component, "controller", "beat"), SERVICE)
    retry = GRPC_SEND.scaled(config.time_scale)
    _sender = HeartbeatSender(component, "controller", server, Cadence.scaled(config.time_scale), retry)
    _sender.told = told
    _sender.start()


def offline() -> frozenset[str]:
    """Who is offline, as the controller told with its last answer; nobody, in a process that does not beat."""
    return _sender.offline if _sender else frozenset()
