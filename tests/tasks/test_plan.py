"""Plans: every shipped scenario can be planned, arms differ in kind alone, and nonsense is refused in one clear sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injection.marks import ScenarioError
from tasks.plan import SCENARIOS, Cell, load_scenario, make_plan, matrix_cells, plan_cell, plan_hash
from tasks.profiles import PROFILES

SHIPPED = sorted(path.stem for path in SCENARIOS.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_shipped_scenario_can_be_planned_in_every_profile(name: str, profile: str) -> None:
    """What we ship works: each scenario has a plan in each arm and profile, with all draws made."""
    scenario = load_scenario(name)
    for arm in scenario.arms:
        plan = make_plan(scenario, arm, seed=5, profile_name=profile, place="virtual-cluster")
        assert plan["faults"]
        assert all("draw" not in str(fault) for fault in plan["faults"])


def without_effect(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan without what an arm may change."""
    faults = [{key: value for key, value in fault.items() if key not in ("kind", "params")} for fault in plan["faults"]]
    job = {key: value for key, value in plan["job"].items() if key != "posture"}
    return {**plan, "job": job, "faults": faults, "arm": "", "posture": "", "expected": {}}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from([name for name in SHIPPED if name != "no-fault"]))
def test_the_arms_of_one_seed_differ_in_the_kind_of_fault_alone(seed: int, name: str) -> None:
    """Target, step and everything else of a control arm are those of the legacy arm; its faults are noops."""
    scenario = load_scenario(name)
    control, legacy = (make_plan(scenario, arm, seed, place="virtual-cluster") for arm in ("control", "legacy"))
    assert without_effect(control) == without_effect(legacy)
    assert {fault["kind"] for fault in control["faults"]} == {"noop"}
    assert plan_hash(control) != plan_hash(legacy) == plan_hash(make_plan(scenario, "legacy", seed, place="virtual-cluster"))


def test_seeds_spread_targets_and_steps() -> None:
    """Over a few seeds every rank and several steps are drawn: a diagnoser cannot know them beforehand."""
    plans = [make_plan(load_scenario("weight-sync-link"), "legacy", seed, place="plain-host") for seed in range(20)]
    assert {plan["faults"][0]["target"]["src"] for plan in plans} == {"train0", "train1"}
    assert len({plan["faults"][0]["trigger"]["step"] for plan in plans}) > 2


def test_the_rate_of_a_slow_link_makes_its_shard_last_one_and_a_half_time_outs() -> None:
    """The magnitude is resolved after scaling: shard bytes over rate is 1.5 times the scaled time-out."""
    plan = make_plan(load_scenario("weight-sync-link"), "legacy", 1)
    shard = 415232 / plan["job"]["train_workers"]
    assert shard / plan["faults"][0]["params"]["rate_bytes_per_s"] == pytest.approx(1.5 * 3600 / plan["job"]["time_scale"])


def test_a_matrix_begins_with_healthy_runs_and_holds_every_arm() -> None:
    """Baselines come first, each with a seed of its own; then every scenario in each of its arms."""
    cells = matrix_cells(["worker-kill"], [], repeats=2, baselines=2, seed=7, profile_name="smoke")
    assert [(cell.scenario, cell.arm, cell.seed) for cell in cells] == [
        ("no-fault", "control", 7),
        ("no-fault", "control", 8),
        ("worker-kill", "control", 7),
        ("worker-kill", "legacy", 7),
        ("worker-kill", "control", 8),
        ("worker-kill", "legacy", 8),
    ]


@pytest.mark.parametrize(
    ("scenario", "arm", "profile", "sentence"),
    [
        ("no-such", "legacy", "smoke", "unknown scenario 'no-such'; known: no-fault"),
        ("no-fault", "legacy", "smoke", "scenario 'no-fault' has no arm 'legacy'; it has: control"),
        ("no-fault", "control", "huge", "unknown profile 'huge'; known: smoke"),
        ("missing.yaml", "legacy", "smoke", "no such scenario file: missing.yaml"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(scenario: str, arm: str, profile: str, sentence: str) -> None:
    """Unknown scenarios, arms, profiles and files are named together with what is known."""
    with pytest.raises(ValueError, match=sentence):
        plan_cell(Cell(scenario, arm, 1, profile))


def test_a_scenario_s_mistakes_are_told_with_key_file_and_line(tmp_path: Path) -> None:
    """A wrong job key and a wrong time-out name are found by the job's own vocabulary."""
    text = (SCENARIOS / "weight-sync-link.yaml").read_text()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("timeout(update_weights)", "timeout(updates)"))
    with pytest.raises(ScenarioError, match=r"wrong\.yaml:\d+: faults.*no time-out 'updates'; allowed: .*update_weights"):
        load_scenario(str(wrong))
    wrong.write_text(text.replace("posture: legacy", "posture: legacy\njob: {setps: 3}"))
    with pytest.raises(ScenarioError, match=r"wrong\.yaml:\d+: job\.setps: unknown key; allowed: .*steps"):
        load_scenario(str(wrong))
