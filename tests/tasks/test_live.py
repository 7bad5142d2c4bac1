"""A run as it goes: what a look at its files tells, and that it follows what is added."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from injection.procfs import identity
from storage import truth
from storage.layout import RunPaths, run_paths
from storage.manifest import RunState, end_manifest, start_manifest
from storage.schemas import METRICS
from storage.writer import TableWriter
from tasks.live import KILLED, Watch, carried, running_run

FAULT = {"id": "f1", "kind": "process-kill", "target": {"type": "process", "component": "rollout0"}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    """A run of this process that has just begun."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    paths = run_paths("r1").create()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    truth.save_plan(paths, {"scenario": "worker-kill", "arm": "legacy", "job": {"steps": 12}, "faults": [FAULT]})
    truth.save_carrier(paths, asdict(identity(os.getpid())))
    return paths


def add(path: Path, *rows: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def stage(phase: str, name: str, step: int) -> dict[str, Any]:
    return {"what": "event", "fault_id": "", "component": "controller", "phase": phase, "stage": name, "step": step}


def sampled(paths: RunPaths, wall_s: float, **values: float) -> None:
    with TableWriter(paths.table("metrics"), METRICS, flush_s=3600, writer="sampler") as writer:
        n = len(values)
        columns = {"wall_s": [wall_s] * n, "host": ["h"] * n, "component": ["rollout0"] * n, "metric": list(values)}
        writer.append({**columns, "value": list(values.values())})


def test_a_look_follows_what_a_run_writes(run: RunPaths) -> None:
    """Stage and step, a worker's figures, faults and errors change with the files; half a line is waited for."""
    watch = Watch("r1")
    assert (watch.look(0.0).stage, watch.look(0.0).workers, watch.look(0.0).faults[0].state) == ("launch", (), "planned")
    add(run.history, stage("enter", "rollout", 3), {"what": "armed", "fault_id": "f1"})
    (run.registry / "rollout0.json").write_text('{"component": "rollout0", "pid": 7}')
    add(run.stats / "rollout0.jsonl", {"step": 3, "stage": "rollout", "metric": "x", "value": 1})
    sampled(run, 10.0, process_state=1.0, cpu_ratio=0.5, rss_bytes=2**20)
    log = run.logs / "rollout0.log"
    log.write_text("2026-01-01 00:00:00.000 INFO rollout0: well\n2026-01-01 00:00:01.000 ERROR rollout0: RpcError: no ans")
    sight = watch.look(0.0)
    assert (sight.step, sight.steps, sight.stage, sight.state, sight.over) == (3, 12, "rollout", "running", False)
    [worker] = sight.workers
    assert asdict(worker) == {
        "component": "rollout0",
        "state": "sleeping",
        "step": 3,
        "stage": "rollout",
        "cpu_cores": 0.5,
        "rss_bytes": 2.0**20,
    }
    assert sight.faults[0].state == "armed"
    with log.open("a") as file:
        file.write("wer\nTraceback (most recent call last):\n  more\nstorage.WorseError: really\n")
    add(run.history, stage("enter", "reward", 3), stage("error", "reward", 3), {"what": "fired", "fault_id": "f1"})
    add(run.job / "workers.json", {"rollout0": {"pid": 7, "exit_code": -9}})
    sampled(run, 20.0, process_state=6.0)
    sight = watch.look(0.0)
    assert sight.stage == "rollout"  # the inner stage is over, the outer goes on
    assert sight.error == "rollout0: RpcError: no answer"
    assert (sight.workers[0].state, sight.workers[0].cpu_cores) == ("was killed by signal 9", None)
    assert sight.faults[0].state == "fired"
    end_manifest(run, RunState.COMPLETED)
    assert watch.look(0.0).state == "completed" and watch.look(0.0).over


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_a_run_whose_process_is_gone_is_over(run: RunPaths, sleeper: subprocess.Popen[bytes]) -> None:
    """While its process lives a run is under way; killed it is over, though its manifest could not say so."""
    truth.save_carrier(run, asdict(identity(sleeper.pid)))
    assert running_run() == "r1" and carried(run)
    sleeper.kill()
    sleeper.wait()
    sight = Watch("r1").look(0.0)
    assert (sight.state, sight.over) == (KILLED, True)
    with pytest.raises(ValueError, match="no run is under way"):
        running_run()


def test_a_run_that_is_about_to_begin_is_waited_for(run: RunPaths) -> None:
    """In the first moment of a launch nobody carries the run yet: who waits is told of it, who does not that there is none."""
    who = truth.load_carrier(run)
    run.carrier.unlink()
    with pytest.raises(ValueError, match="no run is under way"):
        running_run()
    threading.Timer(0.5, truth.save_carrier, (run, who)).start()
    assert running_run(wait_s=60.0) == "r1"
