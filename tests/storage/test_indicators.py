"""The plan's tables: one query each, and numbers that are those of the right runs, instants and components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlhf.stats import unit_of
from storage.indicators import DERIVED, SCENARIOS, plan_table, plan_table_sql
from storage.layout import run_paths
from storage.manifest import RunState, end_manifest, start_manifest
from storage.plan_indicators import PLAN, Metric, page
from storage.schemas import EVENTS, INJECTIONS, LOGS, METRICS
from storage.truth import save_plan
from storage.writer import TableWriter
from telemetry.arena import ARENA_METRICS, LEASE_METRICS
from telemetry.clock import CLOCK_METRICS
from telemetry.disk import DISK_METRICS
from telemetry.events import STAGE_METRICS
from telemetry.gpu import GPU_METRICS
from telemetry.groups import GROUP_METRICS
from telemetry.host import HOST_METRICS
from telemetry.kernel import KERNEL_METRICS
from telemetry.links import LINK_METRICS
from telemetry.network import NETWORK_METRICS
from telemetry.nfs import NFS_METRICS
from telemetry.ping import PING_METRICS
from telemetry.process import PROCESS_METRICS
from telemetry.sync import SYNC_METRICS
from tests.rlhf.told import documented

ROOT = Path(__file__).resolve().parents[2]
LINK = "train1>metaserver:weights"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))


def make_run(run_id: str, scenario: str, arm: str, rows: list[tuple], state: RunState = RunState.COMPLETED) -> None:
    """A run whose fault was applied at 10 s and gone at 20 s; rows are (wall_s, component, step, metric, value)."""
    paths = run_paths(run_id).create()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    save_plan(paths, {"scenario": scenario, "arm": arm, "seed": 1, "faults": []})
    with TableWriter(paths.table("metrics"), METRICS) as writer:
        writer.append([(at, at, "h", component, step, "", metric, "s", value) for at, component, step, metric, value in rows])
    kind = "noop" if arm == "control" else "network-bandwidth"
    with TableWriter(paths.table("injections"), INJECTIONS) as writer:
        for at, what in ((10.0, "applied"), (20.0, "gone")):
            writer.append([(at, at, "f1", kind, LINK, 3, "weights_update", what, "{}")])
    end_manifest(paths, state)


UPLOAD, CPU = "rpc/upload_weights/latency_s", "cpu_ratio"


def rows_of(indicator: str) -> dict[str, dict]:
    answer = plan_table("weight-sync-link")
    return {row["who"]: row for row in answer.dicts() if row["indicator"] == indicator}


def test_target_peers_and_healthy_runs_are_told_apart():
    """Healthy: control and no-fault runs, all of them. Fault: valid faulty runs, since the fault, target and peers apart."""
    healthy = [1.0, 2.0, 4.0]
    make_run("r1", "no-fault", "control", [(5.0, "train0", 1, UPLOAD, healthy[0]), (15.0, "train1", 4, UPLOAD, healthy[1])])
    make_run("r2", "weight-sync-link", "control", [(15.0, "train1", 4, UPLOAD, healthy[2])])
    before, since = (9.0, "train1", 2, UPLOAD, 77.0), [(12.0, "train1", 3, UPLOAD, 10.0), (25.0, "train1", 3, UPLOAD, 20.0)]
    make_run(
        "r3",
        "weight-sync-link",
        "legacy",
        [before, *since, (12.0, "train0", 3, UPLOAD, 1.5), (12.0, "rollout0", 3, UPLOAD, 5.0)],
    )
    make_run("r4", "weight-sync-link", "legacy", [(12.0, "train1", 3, UPLOAD, 1e6)], RunState.INVALID)
    make_run("r5", "worker-kill", "control", [(12.0, "train1", 3, UPLOAD, 1e6)])
    target, peers = (rows_of("upload_weights")[who] for who in ("train, target", "train"))
    for row in (target, peers):
        assert row["healthy_n"] == 3 and row["healthy_mean"] == pytest.approx(np.mean(healthy))
        assert row["healthy_sd"] == pytest.approx(np.std(healthy, ddof=1))
    assert (target["fault_n"], target["fault_mean"], target["fault_min"], target["fault_max"]) == (2, 15.0, 10.0, 20.0)
    assert (peers["fault_n"], peers["fault_mean"]) == (1, 1.5)
    assert set(rows_of("upload_weights")) == {"train", "train, target"}


def test_what_is_sampled_counts_while_the_fault_is_there():
    """The sampler's readings after the fault was gone are not the fault's; missed ones count nowhere."""
    rows = [(12.0, "train1", -1, CPU, 0.5), (15.0, "train1", -1, CPU, None), (21.0, "train1", -1, CPU, 9.0)]
    make_run("r1", "weight-sync-link", "legacy", rows)
    row = rows_of("CPU")["train, target"]
    assert (row["fault_n"], row["fault_max"], row["healthy_n"], row["healthy_mean"]) == (1, 0.5, 0, None)


def test_a_link_is_the_targets_where_it_ends_there_and_ranks_are_left_out():
    """A link is told by its roles; that of the faulty rank apart from that of its peers."""
    sent = "link_acked_bytes_per_s"
    rows = [
        (at, f"{src}>metaserver:weights", -1, sent, value) for at, src, value in ((12.0, "train1", 3.0), (12.5, "train0", 9.0))
    ]
    make_run("r1", "weight-sync-link", "legacy", [*rows, (12.0, "train1>reward:reward", -1, sent, 1e6)])
    told = {who: row["fault_mean"] for who, row in rows_of("network throughput").items() if row["metric"] == sent}
    assert told == {"train>metaserver:weights": 9.0, "train>metaserver:weights, target": 3.0}


def test_what_was_sampled_before_the_first_step_is_neither_healthy_nor_faulty():
    """A worker that starts is busy, which no step is compared with."""
    make_run(
        "r1",
        "no-fault",
        "control",
        [(1.0, "train0", -1, CPU, 9.0), (2.0, "train0", 0, UPLOAD, 1.0), (3.0, "train0", -1, CPU, 0.5)],
    )
    row = rows_of("CPU")["train"]
    assert (row["healthy_n"], row["healthy_mean"]) == (1, 0.5)


def test_latencies_come_from_the_logs_and_hops_from_the_announcements():
    """From the fault to the first error, from there to the controller and to the last; how many steps later a stage failed."""
    make_run("r1", "checkpoint-torn", "legacy", [])
    make_run("r2", "train-oom-masked", "legacy", [])
    for run_id in ("r1", "r2"):
        paths = run_paths(run_id)
        told = [(9.0, "train0"), (11.0, "train0"), (11.5, "controller"), (41.5, "controller")]
        with TableWriter(paths.table("logs"), LOGS) as writer:
            writer.append([(at, who, n, "ERROR", "x", "", -1, "", 0, 0) for n, (at, who) in enumerate(told, start=1)])
        with TableWriter(paths.table("events"), EVENTS) as writer:
            writer.append(
                [(12.0, 12.0, "controller", "stage", step, "train", how, "{}") for step, how in ((3, "exit"), (4, "error"))]
            )
    told = {
        row["metric"]: row["fault_mean"]
        for row in [*plan_table("checkpoint-torn").dicts(), *plan_table("train-oom-masked").dicts()]
    }
    assert told["log/fault_to_error_s"] == 1.0 and told["stage/fault_to_error_steps"] == 1
    assert (told["log/error_to_controller_s"], told["log/first_to_last_error_s"]) == (0.5, 30.5)


def test_growth_is_what_memory_gained_per_second():
    """The query makes a rate of the memory of a GPU that the sampler read, and of nothing before it."""
    rows = [(at, "gpu0", -1, "gpu_memory_used_bytes", value) for at, value in ((12.0, 1e9), (14.0, 3e9), (15.0, 3e9))]
    make_run("r1", "train-oom-masked", "legacy", rows)
    [row] = [row for row in plan_table("train-oom-masked").dicts() if row["metric"] == "device_growth_bytes_per_s"]
    assert (row["fault_n"], row["fault_min"], row["fault_max"]) == (2, 0.0, 1e9)


def test_every_indicator_has_a_row_even_without_numbers():
    """Nothing measured: the indicator is there, its figures are null, in the plan's order; each scenario exists."""
    for scenario in SCENARIOS:
        found = plan_table(scenario).dicts()
        wanted = [(row.name, one.name) for row in PLAN[scenario] for one in row.metrics or (Metric("", ""),)]
        assert [(row["indicator"], row["metric"]) for row in found] == wanted
        assert all(row["fault_mean"] is None and row["healthy_n"] == 0 for row in found)
        assert (ROOT / "scenarios" / f"{scenario}.yaml").exists()
    with pytest.raises(ValueError, match="no table of the plan for 'moon'"):
        plan_table_sql("moon")


def test_the_page_is_this_table_and_no_row_of_the_plan_is_missing():
    """docs/metrics.md holds what the program prints; its rows are those of the plan, in its order, scenario by scenario."""
    assert page() in (ROOT / "docs" / "metrics.md").read_text()
    rows = [line.split("\t") for line in (Path(__file__).parent / "plan_rows.txt").read_text().splitlines()]
    assert [[part, row.plan] for part, rows in PLAN.items() for row in rows] == rows


def test_every_metric_of_the_table_is_written_by_somebody_in_that_unit():
    """By the sampler, by the job, from its announcements, or by the query; with the unit it is said to have."""
    sampled = {*PROCESS_METRICS, *NETWORK_METRICS, *LINK_METRICS, *PING_METRICS, *DISK_METRICS, *SYNC_METRICS, *NFS_METRICS}
    sampled |= {*ARENA_METRICS, *LEASE_METRICS, *CLOCK_METRICS, *GROUP_METRICS, *GPU_METRICS, *KERNEL_METRICS, *HOST_METRICS}
    known = {**dict(sampled), **dict(STAGE_METRICS), **DERIVED}
    told = documented((ROOT / "docs" / "metrics.md").read_text())
    for metric in {one for rows in PLAN.values() for row in rows for one in row.metrics}:
        if metric.name in known:
            assert known[metric.name] == metric.unit, metric.name
        else:
            assert unit_of(metric.name) == metric.unit
            assert any(pattern.fullmatch(metric.name) for pattern in told), metric.name
