"""Collect: from the job's files and the history to tables, once or again, whatever lies in the folders."""

from __future__ import annotations

import json

import pytest

from storage.catalogue import query
from storage.layout import run_paths
from storage.schemas import METRICS
from storage.writer import TableWriter
from telemetry.application import stats_columns
from telemetry.collect import collect_run
from telemetry.events import split_history, stage_columns

PLAN = {
    "faults": [
        {
            "id": "f1",
            "kind": "network-bandwidth",
            "target": {"type": "link", "src": "train1", "dst": "metaserver", "purpose": "weights"},
            "trigger": {"step": 6, "stage": "weights_update", "when": "enter"},
        }
    ]
}
HISTORY = [
    {
        "what": "event",
        "wall_s": 1.0,
        "mono_s": 2,
        "component": "controller",
        "step": 6,
        "stage": "train",
        "phase": "enter",
        "attrs": {"a": 1},
    },
    {"what": "fired", "wall_s": 1.5, "mono_s": 2.5, "fault_id": "f1", "event_mono_s": 2.4},
    {"what": "applied", "wall_s": 1.6, "mono_s": 2.6, "fault_id": "strange"},
    {"what": "event", "wall_s": "x"},
    {"neither": True},
]
STAT = {"wall_s": 1.0, "mono_s": 2.0, "step": 3, "stage": "train", "metric": "loss", "unit": "ratio", "value": 0.5}


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    it = run_paths("r1").create()
    (it.stats / "train0.jsonl").write_text(json.dumps(STAT) + "\n" + json.dumps({**STAT, "value": None}) + "\n")
    (it.logs / "train0.log").write_text("2026-03-01 10:00:00.250 INFO train0: start to train, step: 3, epoch: 0\n")
    (it.registry / "train0.json").write_text('{"component": "train0", "host": "trainers", "pid": 1, "start_ticks": 1}')
    return it


def test_every_source_reaches_its_table(paths):
    """Events, injections, statistics and logs arrive with all they say, and the damaged lines are named."""
    told = collect_run(paths, PLAN, HISTORY)
    assert told["rows"] == {"events": 1, "injections": 2, "metrics": 2, "logs": 1}
    assert [problem.split(":")[1] for problem in told["problems"]] == [" record 4", " record 5"]
    assert query("SELECT component, kind, step, stage, phase, detail FROM events").rows == [
        ("controller", "stage", 6, "train", "enter", '{"a": 1}')
    ]
    assert query("SELECT fault_id, kind, target, step, stage, state FROM injections ORDER BY wall_s").rows == [
        ("f1", "network-bandwidth", "train1>metaserver:weights", 6, "weights_update", "fired"),
        ("strange", "", "", -1, "", "applied"),
    ]
    assert query("SELECT host, component, step, value FROM metrics").rows == [
        ("trainers", "train0", 3, 0.5),
        ("trainers", "train0", 3, None),
    ]
    assert query("SELECT component, step, stage FROM logs").rows == [("train0", 3, "train")]


def test_collecting_again_replaces_and_keeps_the_samplers_rows(paths):
    """Twice collected is once collected; what the sampler wrote into the same table stays."""
    with TableWriter(paths.table("metrics"), METRICS, writer="sampler") as writer:
        writer.append({"metric": ["cpu_ratio"], "value": [1.0]})
    counts = [collect_run(paths, PLAN, HISTORY)["rows"] for _ in range(2)]
    assert counts[0] == counts[1]
    assert query("SELECT metric, count(*) FROM metrics GROUP BY ALL ORDER BY ALL").rows == [("cpu_ratio", 1), ("loss", 2)]


def test_hostile_files_are_named_and_left_out(paths):
    """Torn, binary and foreign files, links and non-finite values: each named, the good rows all there."""
    (paths.stats / "train0.jsonl").write_text(
        json.dumps(STAT) + '\n{"value": NaN}\n' + json.dumps({**STAT, "value": 1e400}) + '\n{"wal'
    )
    (paths.stats / "x.jsonl").symlink_to("/etc/passwd")
    (paths.logs / "core.dump").write_bytes(b"\x00" * 10)
    (paths.logs / "train1.log").write_bytes(b"\xff\xfe\x00" * 50 + b"\n")
    (paths.registry / "train1.json").write_text("[" * 100_000)
    told = collect_run(paths, {}, [])
    assert told["rows"] == {"events": 0, "injections": 0, "metrics": 1, "logs": 2}
    text = " | ".join(told["problems"])
    for word in (
        "record 2: wall_s, mono_s",
        "record 3: value is inf",
        "torn line",
        "stats/x.jsonl: foreign",
        "logs/core.dump: foreign",
    ):
        assert word in text


@pytest.mark.parametrize(
    "change",
    [
        {"value": True},
        {"value": "1"},
        {"step": 1.5},
        {"step": -2},
        {"step": 2**31},
        {"metric": None},
        {"wall_s": None},
        {"unit": 3},
    ],
)
def test_a_statistic_of_a_wrong_type_is_no_number(change):
    """A record whose types are wrong is named with its place and gives no row."""
    columns, problems = stats_columns("train0", "h", [{**STAT, **change}], "train0.jsonl")
    assert len(problems) == 1 and "train0.jsonl: record 1" in problems[0] and columns["value"] == []


@pytest.mark.parametrize("step", [-2, 2**31, True, None, "6"])
def test_an_event_with_an_impossible_step_is_no_row(step):
    """Steps outside the column's range are named, not wrapped around."""
    events, _, problems = split_history([{**HISTORY[0], "step": step}], PLAN)
    assert events == [] and len(problems) == 1


def test_a_record_may_be_about_another_component():
    """A call's figures are told by the caller and stored under the callee; a component that is no text is named."""
    about = {**STAT, "metric": "rpc/train_batch/latency_s", "unit": "s", "component": "train1"}
    columns, problems = stats_columns(
        "controller", "control", [STAT, about, {**about, "component": 7}], "stats/controller.jsonl"
    )
    assert columns["component"] == ["controller", "train1"] and columns["host"] == ["control"] * 2
    assert problems == ["stats/controller.jsonl: record 3: component is 7"]


def test_stages_tell_how_they_ended_and_when_they_began():
    """1 for an error and 0 for an end; the time since the component's own stage before, in the same step and nothing else."""
    announced = [
        (1.0, "controller", 3, "rollout", "enter"),
        (1.25, "rollout0", 3, "reward", "enter"),
        (2.0, "rollout0", 3, "reward", "exit"),
        (3.0, "controller", 3, "rollout", "exit"),
        (3.5, "controller", 3, "train", "enter"),
        (4.0, "controller", 3, "train", "error"),
        (9.0, "controller", 4, "rollout", "enter"),
    ]
    rows = [(100 + at, at, who, "stage", step, stage, phase, "{}") for at, who, step, stage, phase in reversed(announced)]
    told = stage_columns(rows, {"controller": "control"})
    found = zip(*(told[name] for name in ("wall_s", "component", "host", "step", "stage", "metric", "value")), strict=True)
    assert list(found) == [
        (102.0, "rollout0", "", 3, "reward", "stage_failed_count", 0.0),
        (103.0, "controller", "control", 3, "rollout", "stage_failed_count", 0.0),
        (103.5, "controller", "control", 3, "train", "stage_gap_s", 0.5),
        (104.0, "controller", "control", 3, "train", "stage_failed_count", 1.0),
    ]
