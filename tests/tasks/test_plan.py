"""Plans: every shipped scenario can be planned, arms differ in kind alone, and nonsense is refused in one clear sentence."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injection.marks import ScenarioError
from injection.sweep import sweep_cells
from rlhf.config import HARDENED, Posture
from tasks.plan import SCENARIOS, Cell, load_scenario, make_plan, matrix_cells, plan_cell, plan_hash
from tasks.profiles import PROFILES, SOURCES
from telemetry.spec import SOURCES as ALL_SOURCES

SHIPPED = sorted(path.stem for path in SCENARIOS.glob("*.yaml"))
SWEEP = sorted(sweep_cells())
WITH_BOTH = [name for name in SHIPPED if {"control", "legacy"} <= set(load_scenario(name).arms)]


@pytest.mark.parametrize("name", [*SHIPPED, *SWEEP])
@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_shipped_scenario_can_be_planned_in_every_profile(name: str, profile: str) -> None:
    """What we ship works: each scenario and each cell of the sweep has a plan in each arm and profile, with all draws made."""
    scenario = load_scenario(name)
    for arm in scenario.arms:
        plan = make_plan(scenario, arm, seed=5, profile_name=profile, place="virtual-cluster")
        assert plan["faults"]
        assert all("draw" not in str(fault) for fault in plan["faults"])


def without_effect(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan without what an arm may change."""
    changed = ("kind", "params", "may_expire")
    faults = [{key: value for key, value in fault.items() if key not in changed} for fault in plan["faults"]]
    job = {key: value for key, value in plan["job"].items() if key != "posture"}
    return {**plan, "job": job, "faults": faults, "arm": "", "posture": "", "decoy": False, "expected": {}}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from([*WITH_BOTH, *SWEEP]))
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
        ("worker-kill", "hardened", 7),
        ("worker-kill", "control", 8),
        ("worker-kill", "legacy", 8),
        ("worker-kill", "hardened", 8),
    ]


@pytest.mark.parametrize(
    ("scenario", "arm", "profile", "sentence"),
    [
        ("no-such", "legacy", "smoke", "unknown scenario 'no-such'; known: .*no-fault"),
        ("sweep-noop-train-train", "legacy", "smoke", "unknown scenario 'sweep-noop-train-train'; .* a cell of the sweep"),
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


def test_a_profile_says_how_long_announcements_are_held_and_how_often_the_disk_is_tried() -> None:
    """In every arm alike; a published set's runs are those of the smoke profile but for that and the rate of samples."""
    scenario = load_scenario("weight-sync-link")
    smoke, sealed = ([make_plan(scenario, arm, 1, name) for arm in ("control", "legacy")] for name in ("smoke", "sealed"))
    assert [(plan["barrier_hold_s"], plan["sync_every_s"]) for plan in (*smoke, *sealed)] == [(0.02, 10.0)] * 2 + [
        (0.1, 0.2)
    ] * 2
    own = {"profile", "barrier_hold_s", "sync_every_s", "sample_hz"}
    for one, other in zip(smoke, sealed, strict=True):
        assert {key for key in one if one[key] != other[key]} == own


def test_a_scenario_chooses_what_is_sampled_and_how_often(tmp_path: Path) -> None:
    """Its own sources and rate are in the plan of every arm, else the profile's; what is unknown is refused by line."""
    shipped = (SCENARIOS / "weight-sync-link.yaml").read_text()
    path = tmp_path / "s.yaml"
    path.write_text(shipped + "sources: [links, ping]\nsample_hz: 10\n")
    plans = [make_plan(load_scenario(path), arm, 1) for arm in ("control", "legacy")]
    assert [(plan["sources"], plan["sample_hz"]) for plan in plans] == [(["links", "ping"], 10.0)] * 2
    usual = make_plan(load_scenario("weight-sync-link"), "control", 1)
    assert (usual["sources"], usual["sample_hz"]) == (list(SOURCES), 4.0) and set(SOURCES) < set(ALL_SOURCES)
    path.write_text(shipped + "sources: []\n")
    assert make_plan(load_scenario(path), "control", 1)["sources"] == []
    for told, sentence in (
        ("sources: [links, weather]", r"s\.yaml:\d+: sources\.1: 'weather' is not allowed; allowed: links, ping, .*gpu"),
        ("sample_hz: 40", r"s\.yaml:\d+: sample_hz: input should be less than or equal to 20"),
    ):
        path.write_text(shipped + told + "\n")
        with pytest.raises(ScenarioError, match=sentence):
            load_scenario(path)


def test_a_posture_is_what_its_arm_says(tmp_path: Path) -> None:
    """Legacy is the job's defaults, hardened every switch, a described one its switches on its base; nonsense has a line."""
    shipped = (SCENARIOS / "weight-sync-link.yaml").read_text()

    def write(arms: str, postures: str) -> Path:
        path = tmp_path / "p.yaml"
        path.write_text(shipped.replace("arms: [control, legacy, hardened]", f"arms: [{arms}]\npostures: {postures}"))
        return path

    described = "{one: {acked_events: true}, all-but-one: {base: hardened, restart: false}}"
    path = write("control, legacy, hardened, one, all-but-one, hardened-control", described)
    scenario = load_scenario(path)
    plans = {arm: make_plan(scenario, arm, 1, place="virtual-cluster") for arm in scenario.arms}
    switches = {arm: plan["job"]["posture"] for arm, plan in plans.items()}
    assert switches["control"] == switches["legacy"] == asdict(Posture())
    assert switches["hardened"] == switches["hardened-control"] == asdict(HARDENED)
    assert switches["one"] == asdict(Posture()) | {"acked_events": True}
    assert switches["all-but-one"] == asdict(HARDENED) | {"restart": False}
    assert plans["control"]["posture"] == "legacy" and plans["hardened-control"]["posture"] == "hardened"
    for wrong in ("{ears: true}", "{retry: often}", "{base: soft}"):
        path = write("legacy, hardened", f"{{one: {wrong}}}")
        with pytest.raises(ScenarioError, match=r"p\.yaml:\d+: postures\.one: "):
            load_scenario(path)


def test_a_decoy_is_claimed_to_do_nothing() -> None:
    """Its arm with an act of a real kind is marked and must survive; its control is as any other. It has no root."""
    for name in (name for name in SHIPPED if load_scenario(name).decoy):
        acted, calm = (make_plan(load_scenario(name), arm, 3, place="virtual-cluster") for arm in ("legacy", "control"))
        assert (acted["decoy"], acted["expected"], calm["decoy"], calm["expected"]) == (True, {"survives": True}, False, {})
        assert {fault["kind"] for fault in acted["faults"]} != {"noop"} == {fault["kind"] for fault in calm["faults"]}


def test_the_control_of_a_listed_posture_is_an_arm() -> None:
    """`hardened-control` can be planned where `hardened` is listed, and nowhere else; the list itself stays as it is."""
    plan = make_plan(load_scenario("weight-sync-link"), "hardened-control", 1, place="virtual-cluster")
    assert (plan["posture"], plan["faults"][0]["kind"]) == ("hardened", "noop")
    assert "hardened-control" not in {cell.arm for cell in matrix_cells(["weight-sync-link"], [], 1, 0, 1, "smoke")}
    with pytest.raises(ValueError, match="has no arm 'hardened-control'"):
        make_plan(load_scenario("no-fault"), "hardened-control", 1)


def test_another_workload_is_refused_where_it_cannot_be() -> None:
    """The supervised job has train workers alone: what needs a rollout is refused with its line, the rest is planned for it."""
    with pytest.raises(
        ScenarioError, match=r"weight-sync-link\.yaml:\d+: .*workload sft has no stage weights_update; it has: "
    ):
        load_scenario("weight-sync-link", "sft")
    with pytest.raises(ValueError, match="there is no rollout worker in this job"):
        make_plan(load_scenario("rollout-cpu-oom").model_copy(update={"workload": "sft"}), "legacy", 1)
    plan = make_plan(load_scenario("checkpoint-torn", "sft"), "legacy", 1, place="virtual-cluster")
    job = plan["job"]
    assert (job["workload"], job["rollout_workers"], job["reference_workers"]) == ("sft", 0, 0)
    assert set(plan["expected"]) == {"root"}


def test_the_example_in_the_docs_is_a_scenario(tmp_path: Path) -> None:
    """What docs/scenarios.md shows can be planned in each of its arms."""
    page = (SCENARIOS.parent / "docs" / "scenarios.md").read_text()
    path = tmp_path / "example.yaml"
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    scenario = load_scenario(path)
    assert len(scenario.arms) == 6
    for arm in scenario.arms:
        assert make_plan(scenario, arm, 1, place="virtual-cluster")["faults"]
