"""`faultline ps`: which process is which component, and what is done to it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from injection.procfs import identity
from storage import truth
from storage.layout import run_paths
from storage.manifest import RunState, end_manifest, start_manifest
from storage.records import Registration
from tasks.processes import pid_here, process_rows

PLAN = {
    "scenario": "x",
    "arm": "legacy",
    "seed": 1,
    "faults": [
        {"id": "f1", "kind": "process-pause", "target": {"type": "process", "component": "train0"}},
        {
            "id": "f2",
            "kind": "network-delay",
            "target": {"type": "link", "src": "train0", "dst": "metaserver", "purpose": "weights"},
        },
    ],
}


def test_processes_map_to_components_and_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of a run under way are listed with components and faults, also those gone; ended runs are not shown."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    paths = run_paths("r1").create()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    truth.save_plan(paths, PLAN)
    paths.history.write_text(json.dumps({"what": "fired", "fault_id": "f1", "wall_s": 1.0, "mono_s": 1.0}) + "\n")
    me = identity(os.getpid())
    for component, ticks in (("train0", me.start_ticks), ("train1", 1)):
        entry = Registration(component, "train", 0, "trainers", me.pid, ticks, "127.0.0.1")
        (paths.registry / f"{component}.json").write_text(json.dumps(asdict(entry)))
    first, second = process_rows()
    assert (first["component"], first["pid"], first["faults"]) == (
        "train0",
        me.pid,
        "f1 process-pause: fired; f2 network-delay: planned",
    )
    assert (second["component"], second["state"], second["faults"]) == ("train1", "gone", "")
    end_manifest(paths, RunState.COMPLETED)
    assert process_rows() == []


def test_pid_inside_a_namespace_is_found() -> None:
    """A process that knows itself as pid 1 of its own namespace is found by that and its start time."""
    words = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "sleep", "600"]
    outer = subprocess.Popen(words)
    try:
        below = []
        while not below and outer.poll() is None:
            below = [int(word) for word in Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()]
        assert pid_here(1, identity(below[0]).start_ticks) == below[0]
    finally:
        outer.kill()
        outer.wait()
