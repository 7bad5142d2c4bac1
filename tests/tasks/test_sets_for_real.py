"""What sets are made of, run for real: decoys do no harm, and cells of the sweep are proven and undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.collect import collect
from tasks.experiment import attempt
from tasks.outcome import open_case
from tasks.plan import load_scenario, make_plan, shipped_scenarios

pytestmark = [pytest.mark.job, pytest.mark.long, pytest.mark.timeout(3600)]

#: How long another run may keep the machine.
WAIT_S = 3000.0
#: One of each kind of target, and one as the job ends.
CELLS = (
    "sweep-process-pause-reward-reward",
    "sweep-file-corruption-weights-update-train",
    "sweep-network-delay-reference-controller-reference",
    "sweep-network-partition-cleanup-controller-scheduler",
)


@pytest.fixture
def outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What came of the scenario's arm with an act."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))
    paths = attempt(make_plan(load_scenario(request.param), "legacy", 41), lambda _: None, WAIT_S)
    collect(paths)
    return open_case(paths).outcome


@pytest.mark.root
@pytest.mark.parametrize("outcome", [name for name in shipped_scenarios() if load_scenario(name).decoy], indirect=True)
def test_a_decoy_is_proven_and_does_no_harm(outcome: dict[str, Any]) -> None:
    """Every step is done, no sample is lost, nothing is an error. (Root: one of them is about a disk that is a device.)"""
    assert outcome["valid"], outcome["invalid_because"]
    assert outcome["expected"]["came_true"] and outcome["expected"]["survives"], outcome["expected"]
    assert outcome["impact"] == "none" and outcome["root"] is None and outcome["first_error"] is None


@pytest.mark.parametrize("outcome", CELLS, indirect=True)
def test_a_cell_of_the_sweep_is_proven_and_undone(outcome: dict[str, Any]) -> None:
    """The run is valid: fired where its name says, applied, verified by a probe, gone."""
    assert outcome["valid"], outcome["invalid_because"]
    assert outcome["root"]["stage"].replace("_", "-") in outcome["scenario"]
    assert outcome["root"]["kinds"][0] in outcome["scenario"]
