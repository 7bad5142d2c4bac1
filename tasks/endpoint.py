"""An endpoint for Prometheus: what the sampler of each run under way told last, from the same files as everything else.

It stands outside the runs. A sampler in the virtual cluster has a network of its own, whose loopback nobody outside can reach;
what reads its files costs it nothing, is there between runs as well, and may die (decision 0023).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric

from storage.layout import run_paths
from storage.newest import newest_samples
from tasks.live import under_way
from telemetry.openmetrics import families

#: As far back as the slow beat's figures reach, s: they come every ten, and are seen with the flush after.
_SPAN_S = 12.5


class LatestSamples:
    """A collector of Prometheus' client: it looks when it is asked."""

    def collect(self) -> Iterator[Metric]:
        """Every metric of every run under way."""
        return families(row for run_id in under_way() for row in _told(run_id))


def serve(port: int) -> Any:
    """Listen on the loopback (0: a free port); returns the server, which has `server_port`. OSError where the port is taken."""
    registry = CollectorRegistry()
    registry.register(LatestSamples())
    server, _thread = start_http_server(port, "127.0.0.1", registry)
    return server


def _told(run_id: str) -> list[dict[str, Any]]:
    samples = newest_samples(run_paths(run_id).table("metrics"), "sampler", _SPAN_S)
    return [{**row, "run_id": run_id} for row in samples]
