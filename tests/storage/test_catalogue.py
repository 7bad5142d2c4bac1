"""The catalogue: all runs of a home, whatever state they are in."""

from __future__ import annotations

import json
import threading

import pytest

from storage import catalogue, truth
from storage.layout import run_paths, runs_dir
from storage.manifest import RunState, end_manifest, start_manifest
from storage.schemas import EVENTS, METRICS
from storage.writer import TableWriter

FACTS = {"profile": "smoke", "workload": "grpo", "posture": "legacy", "place": "plain-host"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "it's home"))


def make_run(run_id: str, arm: str = "control", values: tuple[float | None, ...] = (1.0, 2.0), state=RunState.COMPLETED):
    paths = run_paths(run_id).create()
    start_manifest(paths, **FACTS)
    truth.save_plan(paths, {"scenario": "plain", "arm": arm, "seed": 7, "faults": []})
    with TableWriter(paths.table("metrics"), METRICS) as writer:
        writer.append([(n, n, "h", "train0", n, "train", "loss", "ratio", value) for n, value in enumerate(values)])
    if state:
        end_manifest(paths, state)
    return paths


def test_an_empty_home_has_no_runs_and_answers_queries():
    """Nothing there: an empty list, empty views with all their columns, no problem."""
    assert catalogue.list_runs() == []
    for view in ("runs", "events", "metrics", "logs", "injections"):
        answer = catalogue.query(f"SELECT * FROM {view}")
        assert answer.rows == [] and "run_id" in answer.columns and answer.problems == ()


def test_runs_are_listed_with_truth_and_validity():
    """Oldest first, scenario and arm joined; a completed run is valid, a running one undecided, the others are not."""
    for run_id, state in (("rb", RunState.COMPLETED), ("ra", None), ("rc", RunState.INVALID), ("rd", RunState.CANCELLED)):
        make_run(run_id, state=state)
    rows = catalogue.list_runs()
    assert [(row.run_id, row.valid) for row in rows] == [("rb", True), ("ra", None), ("rc", False), ("rd", False)]
    assert {(row.scenario, row.arm, row.seed) for row in rows} == {("plain", "control", 7)}


def test_metrics_cross_runs_and_missed_samples_stay_null():
    """Rows of several runs by run_id and time; filters hold; a null is a null and no aggregate counts it."""
    make_run("ra", values=(1.0, None))
    make_run("rb", values=(5.0,))
    assert [(row["run_id"], row["value"]) for row in catalogue.metrics().dicts()] == [("ra", 1.0), ("ra", None), ("rb", 5.0)]
    assert catalogue.metrics(["rb"], metric="loss", component="train0", stage="train").dicts()[0]["value"] == 5.0
    assert catalogue.metrics(metric="' OR 1=1 --").rows == []
    assert catalogue.query("SELECT count(value), avg(value) FROM metrics").rows == [(2, 3.0)]
    joined = catalogue.query("SELECT arm, sum(value) FROM metrics JOIN runs USING (run_id) GROUP BY arm")
    assert joined.rows == [("control", 6.0)]


def test_damage_in_one_run_is_named_and_hurts_no_other():
    """Torn and foreign segments, a broken manifest, a missing plan: named; what is whole is still counted."""
    make_run("ra")
    hurt = make_run("rb", values=(100.0,))
    segment = next(hurt.table("metrics").glob("part-*"))
    segment.write_bytes(segment.read_bytes()[:-3])
    (hurt.table("metrics") / "dump.csv").write_text("a,b\n")
    hurt.manifest.write_text("{")
    hurt.plan.unlink()
    (runs_dir() / "stray.txt").write_text("")
    answer = catalogue.query("SELECT sum(value) FROM metrics")
    assert answer.rows == [(3.0,)] and len(answer.problems) == 2 and all("rb: metrics/" in text for text in answer.problems)
    row = catalogue.open_run("rb")
    assert row.state == "unreadable" and row.valid is False and len(row.problems) == 2
    assert [one.run_id for one in catalogue.list_runs()] == ["ra", "rb"]
    assert catalogue.query("SELECT run_id, state, seed FROM runs ORDER BY 1").rows == [
        ("ra", "completed", 7),
        ("rb", "unreadable", None),
    ]


def test_bad_questions_get_one_clear_error():
    """Bad SQL, no such run, no run id: an error that says so."""
    with pytest.raises(ValueError, match="nosuchcolumn"):
        catalogue.query("SELECT nosuchcolumn FROM metrics")
    with pytest.raises(FileNotFoundError, match="rz"):
        catalogue.query("SELECT 1 FROM metrics", ["rz"])
    with pytest.raises(ValueError, match="not a run id"):
        catalogue.open_run("../x")


def test_queries_may_run_while_a_run_is_being_written():
    """A reader next to a writer sees whole segments only: each count was true at some instant, and none falls."""
    paths = make_run("ra", values=())
    stop = threading.Event()

    def write() -> None:
        with TableWriter(paths.table("events"), EVENTS, flush_s=3600) as writer:
            while not stop.is_set():
                writer.append([(1.0, 1.0, "controller", "stage", 1, "train", "enter", json.dumps({}))] * 10)
                writer.flush()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        counts = [catalogue.query("SELECT count(*) FROM events").rows[0][0] for _ in range(15)]
    finally:
        stop.set()
        thread.join()
    assert counts == sorted(counts) and all(count % 10 == 0 for count in counts) and counts[-1] > 0
