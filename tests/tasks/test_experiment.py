"""Whole runs in both kinds of place, by the command, as an ordinary user: what they promise and what they leave."""

from __future__ import annotations

import json

import pytest

from storage import schemas, truth
from storage.manifest import load_manifest
from storage.reader import read_table
from storage.seal import verify_seal
from tests.tasks.conftest import Faultline

pytestmark = [pytest.mark.job, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("scenario", "arm", "place"),
    [
        ("worker-kill", "legacy", "virtual-cluster"),
        ("weight-sync-link", "legacy", "plain-host"),
        ("no-fault", "control", "virtual-cluster"),
    ],
)
def test_a_run_keeps_its_promises(scenario: str, arm: str, place: str, faultline: Faultline) -> None:
    """The fault was real, proved and undone, the expected error came, evidence is sealed, and every table reads."""
    run = faultline("run", scenario, "--arm", arm, "--place", place, "--json")
    assert (run.code, run.error) == (0, "")
    assert run.outcome["valid"], run.outcome["invalid_because"]
    paths = run.paths
    assert paths is not None
    assert paths.run_id == run.outcome["run_id"]
    if arm == "control":
        assert run.outcome["final_error"] is None
        assert run.outcome["steps_done"] == run.outcome["steps_planned"] == 12
    else:
        assert run.outcome["expected"]["came_true"]
    told = [line["what"] for line in truth.load_history(paths) if line["what"] != "event"]
    assert told == ["armed", "fired", "applied", "verified", "reverted", "gone"]
    assert load_manifest(paths).state == "completed"
    assert verify_seal(paths) == []
    for name in ("metrics", "logs", "events"):
        rows, problems = read_table(paths.table(name), schemas.TABLES[name])
        assert problems == []
        assert rows.num_rows > 50
    assert json.loads(paths.score.read_text())["verdicts"]
