"""docs/metrics.md lists what the sampler writes, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from telemetry.arena import ARENA_METRICS, LEASE_METRICS
from telemetry.clock import CLOCK_METRICS
from telemetry.disk import DISK_METRICS
from telemetry.gpu import GPU_METRICS
from telemetry.groups import GROUP_METRICS
from telemetry.host import HOST_METRICS
from telemetry.interfaces import INTERFACE_METRICS
from telemetry.kernel import KERNEL_METRICS
from telemetry.links import LINK_METRICS
from telemetry.network import NETWORK_METRICS
from telemetry.nfs import NFS_METRICS
from telemetry.ping import PING_METRICS
from telemetry.process import MEMORY_METRICS, PROCESS_METRICS
from telemetry.ray_node import RAY_METRICS
from telemetry.sampler import AVAILABLE, MISSED
from telemetry.sync import SYNC_METRICS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_the_page_and_the_sampler_name_the_same_metrics_and_units():
    """Each sampled metric has one row with its unit, and each row is a metric that exists."""
    sampled = PAGE.read_text().split("## Sampled")[1].split("## Told by the job")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", sampled, re.M)
    more = {
        *LINK_METRICS,
        *DISK_METRICS,
        *GROUP_METRICS,
        *GPU_METRICS,
        *KERNEL_METRICS,
        *NFS_METRICS,
        *SYNC_METRICS,
        *PING_METRICS,
        *CLOCK_METRICS,
        *INTERFACE_METRICS,
        *RAY_METRICS,
        *ARENA_METRICS,
        *LEASE_METRICS,
    }
    written = {*PROCESS_METRICS, *MEMORY_METRICS, *NETWORK_METRICS, *HOST_METRICS, MISSED, AVAILABLE, *more}
    assert len(rows) == len(set(rows)) and set(rows) == written
