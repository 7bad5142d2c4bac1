"""The endpoint for Prometheus: scraped over HTTP, parsed by Prometheus' own strict parser."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from injection.procfs import identity
from storage import truth
from storage.layout import run_paths
from storage.manifest import RunState, end_manifest, start_manifest
from storage.schemas import METRICS
from storage.writer import TableWriter
from tasks.endpoint import serve
from telemetry.gpu import GPU_METRICS
from telemetry.host import HOST_METRICS
from telemetry.links import LINK_METRICS
from telemetry.network import NETWORK_METRICS
from telemetry.process import PROCESS_METRICS

ALL = (*HOST_METRICS, *NETWORK_METRICS, *PROCESS_METRICS, *LINK_METRICS, *GPU_METRICS)


@pytest.fixture
def scrape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ask the endpoint as Prometheus does; the families it tells, by name."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    server = serve(0)
    assert server.server_address[0] == "127.0.0.1"

    def ask() -> dict[str, Any]:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/metrics", headers=accept)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}

    yield ask
    server.shutdown()
    server.server_close()


def sample(wall_s: float, component: str, values: dict[tuple[str, str], float | None]) -> list[tuple[Any, ...]]:
    return [(wall_s, wall_s, "h", component, -1, "", name, unit, value) for (name, unit), value in values.items()]


def test_a_scrape_tells_the_latest_of_runs_under_way_and_of_no_others(scrape: Any) -> None:
    """Each metric has a name and unit that the strict parser takes; missed ones are left out; what ended is gone."""
    assert scrape() == {}
    paths = run_paths("r1").create()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    truth.save_carrier(paths, asdict(identity(os.getpid())))
    with TableWriter(paths.table("metrics"), METRICS, flush_s=3600, writer="sampler") as writer:
        writer.append(
            sample(100.0, "train0", {("pss_bytes", "bytes"): 7.0, ("cpu_ratio", "cores"): 1.0, ("threads", "count"): 1.0})
        )
        writer.flush()
        writer.append(sample(102.0, "train0", {("cpu_ratio", "cores"): 0.5, ("threads", "count"): None}))
        writer.flush()
        writer.append(sample(102.0, "all", dict.fromkeys(ALL, 2.0)))
    told = scrape()
    assert len(told) == len({name for name, _ in ALL}) + 1
    [cpu] = [one for one in told["faultline_cpu_cores"].samples if one.labels["component"] == "train0"]
    assert (cpu.value, cpu.labels) == (0.5, {"run_id": "r1", "host": "h", "component": "train0"})
    assert [one.labels["component"] for one in told["faultline_threads"].samples] == ["all"]
    assert told["faultline_pss_bytes"].samples[0].value == 7.0  # a slow beat's figure stays until the next
    units = {name: told[name].unit for name in ("faultline_link_rtt_seconds", "faultline_read_bytes_per_second")}
    assert units == {"faultline_link_rtt_seconds": "seconds", "faultline_read_bytes_per_second": "bytes_per_second"}
    end_manifest(paths, RunState.COMPLETED)
    assert scrape() == {}
