"""Catalogue A in whole runs, by the command, as an ordinary user: errors come out where it says, from their real cause."""

from __future__ import annotations

import json

import pytest

from storage import schemas
from storage.layout import RunPaths
from storage.reader import read_table
from tests.tasks.conftest import Faultline, Told

pytestmark = [pytest.mark.job, pytest.mark.timeout(1200)]


def run(faultline: Faultline, scenario: str, arm: str) -> tuple[Told, RunPaths]:
    """A valid run that came out as the scenario claims of this arm."""
    told = faultline("run", scenario, "--arm", arm, "--place", "virtual-cluster", "--seed", "23", "--json")
    assert (told.code, told.error) == (0, "")
    assert told.outcome["valid"], told.outcome["invalid_because"]
    assert told.outcome["expected"]["came_true"], (told.outcome["expected"], told.outcome["final_error"])
    assert told.paths is not None
    return told, told.paths


def figures(paths: RunPaths, component: str, metric: str) -> list[float]:
    rows, problems = read_table(paths.table("metrics"), schemas.TABLES["metrics"])
    assert problems == []
    return [row["value"] for row in rows.to_pylist() if (row["component"], row["metric"]) == (component, metric)]


def test_a_rollout_worker_out_of_memory_comes_out_in_train(faultline: Faultline) -> None:
    """A2: the worker's own allocator fails; the controller goes on without its share, and train is short by it."""
    told, paths = run(faultline, "rollout-cpu-oom", "legacy")
    worker = told.outcome["root"]["component"]
    assert "can't allocate memory" in (paths.logs / f"{worker}.log").read_text()
    final = told.outcome["final_error"]
    assert final["stage"] == "train" and "expected 64, got 128" in final["text"]
    assert told.outcome["hop"]["crossed"]


def test_a_cleanup_covers_what_ended_the_training(faultline: Faultline) -> None:
    """A3: the device had no memory for the train worker; the log ends with requests of the cleanup that were given up."""
    told, paths = run(faultline, "train-oom-masked", "legacy")
    worker = told.outcome["root"]["component"]
    assert "out of memory: tried to allocate 60.0 MiB, 48.0 of 64.0 MiB in use" in (paths.logs / f"{worker}.log").read_text()
    errors = [line for line in (paths.logs / "controller.log").read_text().splitlines() if " ERROR controller: " in line]
    assert [line.rsplit(": ", 1)[1] for line in errors[-3:]] == ["Request timeout"] * 3
    assert told.outcome["hop"]["crossed"] and told.outcome["final_error"]["stage"] == "cleanup"


def test_a_lost_hand_over_comes_out_in_rollout(faultline: Faultline) -> None:
    """A4: the event is never heard, the neighbour keeps the device, and more than a hundred allocations fail."""
    told, paths = run(faultline, "colocated-handover-lost", "legacy")
    target = told.outcome["root"]["target"]
    worker = target.partition(">")[2].partition(":")[0]
    rank = worker.removeprefix("rollout")
    assert max(figures(paths, worker, "arena_failed_count")) > 100
    assert f"lease held by train{rank}" in (paths.logs / f"{worker}.log").read_text()
    assert (
        "event rollout_start, global_step: " + str(told.outcome["root"]["step"])
        not in ((paths.logs / f"{worker}.log").read_text().partition("attempt 64")[0])
    )


def test_a_torn_checkpoint_comes_out_one_step_later(faultline: Faultline) -> None:
    """A5: the save is a warning; what it left is not whole, and whoever next reads the weights there says so."""
    told, paths = run(faultline, "checkpoint-torn", "legacy")
    log = (paths.logs / "controller.log").read_text()
    assert "WARNING controller: [Trainer] save of latest_checkpoint failed" in log
    first = told.outcome["first_error"]
    assert first["stage"] == "checkpoint" and "SaveError" in first["text"]
    final, root = told.outcome["final_error"], told.outcome["root"]
    assert (final["stage"], final["step"] - root["step"]) == ("weights_update", 1)
    # How far the save came before the disk was full again is chance: an empty file (which cannot be mapped), one without an
    # end, or none of those that follow.
    told_by = ("Invalid argument", "EOFError", "PytorchStreamReader", "FileNotFoundError")
    assert any(word in (paths.logs / "rollout0.log").read_text() for word in told_by)


@pytest.mark.long
@pytest.mark.parametrize(
    "scenario", ["weight-sync-link", "rollout-cpu-oom", "train-oom-masked", "colocated-handover-lost", "checkpoint-torn"]
)
def test_hardened_the_error_is_where_the_fault_is_or_there_is_none(faultline: Faultline, scenario: str) -> None:
    """With every mitigation on: the stage of the error is that of the fault, or the job survives with every sample."""
    told, _ = run(faultline, scenario, "hardened")
    final, root = told.outcome["final_error"], told.outcome["root"]
    assert final is None or final["stage"] == root["stage"]
    assert json.dumps(told.outcome)
