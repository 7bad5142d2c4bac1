"""Verbs about what is kept, on runs that are there: each answers as text and as JSON, and says the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.command import cli
from storage.layout import run_paths
from storage.manifest import RunState, end_manifest, start_manifest
from storage.schemas import METRICS
from storage.truth import save_plan
from storage.writer import TableWriter


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))
    for run_id, arm, value in (("r1", "control", 1.5), ("r2", "legacy", 2.5)):
        paths = run_paths(run_id).create()
        start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
        save_plan(paths, {"scenario": "weight-sync-link", "arm": arm, "seed": 7, "faults": []})
        line = "2026-03-01 10:00:0{}.000 {} train0: words, request_id=aaaa1111\n"
        (paths.logs / "train0.log").write_text(line.format(1, "INFO") + line.format(2, "ERROR"))
        with TableWriter(paths.table("metrics"), METRICS) as writer:
            writer.append([(1.0, 1.0, "h", "controller", 1, "train", "timeperf/weights_update_step", "s", value)])
        end_manifest(paths, RunState.COMPLETED)


def call(*words: str) -> Result:
    found = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found


def told(*words: str):
    return json.loads(call(*words, "--json").stdout)


def test_list_filters() -> None:
    """By arm, validity and age; what fits nothing is an empty list."""
    assert [row["run_id"] for row in told("list", "--arm", "legacy", "--valid", "--days", "1")] == ["r2"]
    assert [row["run_id"] for row in told("list", "--scenario", "weight-sync-link")] == ["r1", "r2"]
    assert told("list", "--not-valid") == told("list", "--profile", "moon") == []


def test_query_answers_and_names_what_is_left_out() -> None:
    """Rows by column name; a foreign file is named apart from them; --run narrows."""
    (run_paths("r2").table("metrics") / "notes.txt").write_text("x")
    answer = told("query", "SELECT run_id, value FROM metrics ORDER BY run_id")
    assert answer["rows"] == [{"run_id": "r1", "value": 1.5}, {"run_id": "r2", "value": 2.5}]
    assert len(answer["problems"]) == 1 and "notes.txt" in answer["problems"][0]
    assert told("query", "SELECT sum(value) AS s FROM metrics", "--run", "r1")["rows"] == [{"s": 1.5}]
    assert "r2      2.5" in call("query", "SELECT run_id, value FROM metrics").stdout


def test_logs_are_the_bytes_or_the_columns() -> None:
    """As text the raw lines, filtered; as JSON the columns of the logs table."""
    assert call("logs", "r1").stdout == (run_paths("r1").logs / "train0.log").read_text()
    (row,) = told(
        "logs", "r1", "--level", "ERROR", "--request-id", "aaaa1111", "--from", "2026-03-01 10:00:00", "--grep", "wor"
    )
    assert (row["component"], row["line"], row["level"], row["request_id"]) == ("train0", 2, "ERROR", "aaaa1111")


def test_a_run_goes_out_and_home_again(tmp_path: Path) -> None:
    """Exported, removed by gc, imported: it answers as before."""
    facts = told("export", "r1", str(tmp_path))
    assert [one["done"] for one in told("gc", "--keep", "1")] == ["removed", "compacted"]
    assert [row["run_id"] for row in told("list")] == ["r2"]
    assert told("import", facts["archive"], "--fingerprint", facts["fingerprint"])["run_id"] == "r1"
    assert told("query", "SELECT sum(value) AS s FROM metrics")["rows"] == [{"s": 4.0}]


def test_indicators_fill_the_plans_table() -> None:
    """One row an indicator at least; the control arm is the healthy side; --sql prints the query that is asked."""
    first = told("indicators", "weight-sync-link")["rows"][0]
    assert (first["indicator"], first["healthy_n"], first["healthy_mean"]) == ("weights_update in all", 1, 1.5)
    assert "$scenario" in call("indicators", "weight-sync-link", "--sql").stdout
