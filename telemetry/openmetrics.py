"""Samples as Prometheus wants them: names, units and labels by the rules of OpenMetrics, written by its own client library."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

#: Our unit: how our names end with it, and OpenMetrics' unit, with which a name must end. All others have no unit there.
_UNITS = {
    "s": ("_s", "seconds"),
    "bytes": ("_bytes", "bytes"),
    "bytes/s": ("_bytes_per_s", "bytes_per_second"),
    "1/s": ("_per_s", "per_second"),
    "cores": ("_ratio", "cores"),
    "ratio": ("_ratio", "ratio"),
    "Hz": ("_hz", "hertz"),
    "W": ("_w", "watts"),
    "C": ("_c", "celsius"),
}


def families(samples: Iterable[dict[str, Any]]) -> Iterator[Metric]:
    """One gauge a metric, over rows of METRICS with their ``run_id``. A missed sample is left out: it is stale, not zero.

    Everything is a gauge: rates are made by the sampler, and counts begin anew with what they count.
    """
    found: dict[str, GaugeMetricFamily] = {}
    for row in samples:
        if row["value"] is None:
            continue
        name, unit = name_of(row["metric"], row["unit"])
        about = f"{row['metric']} in {row['unit'] or 'no unit'}; see docs/metrics.md"
        family = found.setdefault(name, GaugeMetricFamily(name, about, labels=("run_id", "host", "component"), unit=unit))
        family.add_metric((row["run_id"], row["host"], row["component"]), row["value"])
    return iter(found.values())


def name_of(metric: str, unit: str) -> tuple[str, str]:
    """OpenMetrics' name and unit: ``link_rtt_s`` in ``s`` is ``faultline_link_rtt_seconds`` in ``seconds``."""
    ours, theirs = _UNITS.get(unit, ("", ""))
    name = metric.removesuffix(ours) if ours else metric
    return re.sub(r"[^a-zA-Z0-9_]", "_", f"faultline_{name}{'_' if theirs else ''}{theirs}"), theirs
