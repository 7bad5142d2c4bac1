"""A run that did not get to its end says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.layout import RunPaths, run_paths
from storage.manifest import RunState, end_manifest, load_manifest, start_manifest
from tasks.unfinished import close_abandoned, cut_short


def begun(name: str) -> RunPaths:
    paths = run_paths(name).create()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    return paths


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt(), "cancelled"), (SystemExit(143), "cancelled"), (RuntimeError("x"), "crashed")]
)
def test_cut_short_is_never_completed(
    error: BaseException, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended by somebody it is cancelled, ended by an error crashed, whatever the reverting said before."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    paths = begun("r1")
    end_manifest(paths, RunState.COMPLETED)
    cut_short(paths, error)
    assert load_manifest(paths).state == state


def test_abandoned_runs_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only runs that claim to be under way are called crashed; ended and damaged ones are left as they are."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    end_manifest(begun("r1"), RunState.COMPLETED)
    begun("r2")
    begun("r3").manifest.write_text("{torn")
    assert close_abandoned() == ["r2"]
    assert close_abandoned() == []
    assert [load_manifest(run_paths(run)).state for run in ("r1", "r2")] == ["completed", "crashed"]
