"""The plan's tables: one query each, and numbers that are those of the right runs, instants and components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storage.indicators import TABLES_OF_THE_PLAN, plan_table, plan_table_sql
from storage.layout import run_paths
from storage.manifest import RunState, end_manifest, start_manifest
from storage.schemas import INJECTIONS, METRICS
from storage.truth import save_plan
from storage.writer import TableWriter

SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"
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


def test_every_indicator_has_a_row_even_without_numbers():
    """Nothing measured: the indicator is there, its figures are null, in the plan's order; each scenario exists."""
    for scenario, table in TABLES_OF_THE_PLAN.items():
        found = plan_table(scenario).dicts()
        assert [row["indicator"] for row in found] == [one.name for one in table]
        assert all(row["fault_mean"] is None and row["healthy_n"] == 0 for row in found)
        assert (SCENARIOS / f"{scenario}.yaml").exists()
    with pytest.raises(ValueError, match="no table of the plan for 'moon'"):
        plan_table_sql("moon")
