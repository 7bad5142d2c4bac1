from __future__ import annotations

from pathlib import Path

import pytest

from injection.draw import ImpossibleError, resolve, resolve_expected
from injection.marks import ScenarioError
from injection.scenario import Scenario, load_scenario
from injection.trigger import from_plan
from storage.records import FaultKind

GOOD = """\
name: weight-sync-link
title: one link too slow
catalogue: 1
job: {steps: 12}
faults:
  - kind: network-bandwidth
    target: {link: {src: {role: train, rank: draw}, dst: {role: metaserver}, purpose: weights}}
    trigger: {step: [4, 8], stage: weights_update, when: enter}
    until: {when: exit, stage: weights_update, steps_later: 1}
    params: {rate_bytes_per_s: shard_bytes / (1.5 x timeout(update_weights))}
  - kind: process-pause
    target: {role: train, rank: draw}
    trigger: {step: [4, 8], stage: train, when: exit, after_s: 0.5 x timeout(stop_job)}
    until: {after_s: 2}
expected:
  root: {stage: weights_update, fault: f1}
  arms: {legacy: {stage: weights_update, role: rollout, text: UpdateWeightError}}
"""
JOB = {"steps": 12, "train_workers": 4, "rollout_workers": 2, "reference_workers": 1}
STAGES = "'init', 'weights_update', 'rollout', 'reward', 'reference', 'train', 'checkpoint', 'cleanup'"

KINDS = ", ".join(f"'{kind}'" for kind in FaultKind)

SHIPPED = Path(__file__).resolve().parents[2] / "scenarios"

#: What is written instead of what, the line it stands in, and the sentence after `file:line: `.
REFUSALS = [
    (
        "when: enter",
        "when: entering",
        8,
        "faults.0.trigger.when: 'entering' is not allowed; allowed: 'enter', 'exit', 'error', +<seconds after enter>",
    ),
    ("when: exit, after_s", "when: +2, after_s", 13, "faults.1.trigger.when: says the seconds already"),
    (
        "when: enter}",
        "when: enter, rank: 1}",
        8,
        "faults.0.trigger.rank: belongs to a role that has ranks: reference, train, rollout",
    ),
    (
        "{step: [4, 8], stage: weights_update, when: enter}",
        "{any: [{stage: train, when: error}, {stage: trains, when: error}]}",
        8,
        f"faults.0.trigger.any.1.stage: 'trains' is not allowed; allowed: {STAGES}",
    ),
    (
        "{step: [4, 8], stage: weights_update, when: enter}",
        "{after: {stage: train, when: error, after_s: 1}, then: {stage: train, when: exit}}",
        8,
        "faults.0.trigger.after: seconds belong to the outermost trigger",
    ),
    (
        "{step: [4, 8], stage: weights_update, when: enter}",
        "{metric: samples_per_s}",
        8,
        "faults.0.trigger: must have either below or above",
    ),
    (
        "{step: [4, 8], stage: weights_update, when: enter}",
        "{every: 2, ov: {stage: train, when: enter}}",
        8,
        "faults.0.trigger.ov: unknown key; allowed: after_s, every, of",
    ),
    (
        "until: {when: exit, stage: weights_update, steps_later: 1}",
        "until: {event: {stage: train}}",
        9,
        "faults.0.until.event.when: required, but missing",
    ),
    ("stage: train,", "stage: training,", 13, f"faults.1.trigger.stage: 'training' is not allowed; allowed: {STAGES}"),
    ("[4, 8], stage: w", "[8, 4], stage: w", 8, "faults.0.trigger.step: a range is [low, high] with low <= high (got [8, 4])"),
    (
        "trigger: {step: [4, 8], stage: w",
        "triger: {step: 4, stage: w",
        8,
        "faults.0.triger: unknown key; allowed: id, kind, target, trigger, until, params",
    ),
    (
        "network-bandwidth",
        "bandwidth",
        6,
        f"faults.0.kind: 'bandwidth' is not allowed; allowed: {KINDS}",
    ),
    (
        "rate_bytes_per_s:",
        "rate_mbit:",
        10,
        "faults.0.params.rate_mbit: unknown parameter of network-bandwidth; allowed: rate_bytes_per_s, direction, interface",
    ),
    (
        "shard_bytes / (1.5 x timeout(update_weights))",
        "5",
        10,
        "faults.0.params.rate_bytes_per_s: input should be greater than or equal to 100 (got 5)",
    ),
    (
        "1.5 x timeout(u",
        "1.5 * timeout(u",
        10,
        "faults.0.params.rate_bytes_per_s: 'shard_bytes / (1.5 * timeout(update_weights))' is not a magnitude; allowed: "
        "a number, '<factor> x timeout(<name>)', 'shard_bytes / (<factor> x timeout(<name>))'",
    ),
    (
        "(update_weights)",
        "(update)",
        10,
        "faults.0.params.rate_bytes_per_s: no time-out 'update'; allowed: stop_job, update_weights",
    ),
    (
        "{role: train, rank: draw}\n",
        "{role: train}\n",
        12,
        "faults.1.target: rank: required for role train: a whole number from 0, or 'draw'",
    ),
    (
        "{role: train, rank: draw}\n",
        "{role: train, rank: -1}\n",
        12,
        "faults.1.target.rank: must be a whole number from 0, or 'draw' (got -1)",
    ),
    (
        "{role: train, rank: draw}\n",
        "{role: reward, rank: 0}\n",
        12,
        "faults.1.target.rank: there is only one reward, it has no rank",
    ),
    (
        "{role: metaserver}",
        "{role: reward}",
        7,
        "faults.0.target.link: there is no link train -> reward: weights; allowed: "
        "controller -> train: rpc, event; controller -> rollout: rpc, event; controller -> reference: rpc; "
        "controller -> scheduler: scheduler; train -> metaserver: weights; rollout -> metaserver: weights; "
        "rollout -> reward: reward; rollout -> serving: generate; controller -> metaserver: weights; "
        "controller -> reward: reward; train -> controller: beat; rollout -> controller: beat; "
        "reference -> controller: beat; metaserver -> controller: beat; reward -> controller: beat; "
        "serving -> controller: beat",
    ),
    ("process-pause", "network-reset", 12, "faults.1.target: network-reset acts on a link, not on a process"),
    ("fault: f1", "fault: f3", 16, "expected.root.fault: there is no such fault; allowed: f1, f2"),
    ("title: one link too slow\n", "", 1, "title: required, but missing"),
    ("catalogue: 1", "name: again", 3, "name: given twice, first in line 1"),
    ("job: {steps: 12}", "job: {stepz: 12}", 4, "job.stepz: unknown key; allowed: steps"),
    (
        "job: {steps: 12}",
        "arms: [hard]",
        4,
        "arms.0: 'hard' is not allowed; allowed: control, legacy, hardened (or describe it under postures)",
    ),
    ("job: {steps: 12}", "arms: [control]", 17, "expected.arms.legacy: is no arm with faults; there are: none"),
    ("job: {steps: 12}", "postures: {hardened: {restart: true}}", 4, "postures.hardened: this name has a meaning of its own"),
    ("job: {steps: 12}", "postures: {deaf: {ears: false}}", 4, "postures.deaf: no switch ears"),
    (
        "job: {steps: 12}",
        "job: {posture: {restart: true}}",
        4,
        "job.posture: is said by the arm; describe a set of switches under postures, by a name",
    ),
    (
        "job: {steps: 12}",
        "workload: sft",
        8,
        "faults.0.trigger.stage: workload sft has no stage weights_update; it has: init, train, checkpoint, cleanup",
    ),
    (
        "legacy: {stage: weights_update, role",
        "legacy: {stage: weights, role",
        17,
        f"expected.arms.legacy.stage: 'weights' is not allowed; allowed: {STAGES}",
    ),
    (
        "legacy: {stage: weights_update, role: rollout, text: UpdateWeightError}",
        "legacy: dies",
        17,
        "expected.arms.legacy: 'dies' is not allowed; allowed: 'survives'",
    ),
    ("job: {steps: 12}", "decoy: true", 15, "expected: a decoy has no root and no error: every arm of it survives"),
    (
        "until: {after_s: 2}",
        "until: {after_s: 2, when: end}",
        14,
        "faults.1.until: must have one of when (end or exit), after_s and event",
    ),
    (
        "until: {after_s: 2}",
        "until: {after_s: -2}",
        14,
        "faults.1.until.after_s: must be a number, '<factor> x timeout(<name>)', "
        "'shard_bytes / (<factor> x timeout(<name>))', not negative (got -2)",
    ),
]


def no_ears(switches: dict) -> None:
    if "ears" in switches:
        raise ValueError("no switch ears")


def load(path: Path, text: str) -> Scenario:
    path.write_text(text)
    return load_scenario(path, ["steps"], ["stop_job", "update_weights"], no_ears)


@pytest.mark.parametrize(("old", "new", "line", "sentence"), REFUSALS)
def test_each_mistake_is_named_with_its_line_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, line: int, sentence: str
) -> None:
    """A scenario with one mistake is refused with one sentence: file, line, key, problem and the allowed values."""
    path = tmp_path / "s.yaml"
    assert old in GOOD
    with pytest.raises(ScenarioError) as refusal:
        load(path, GOOD.replace(old, new, 1))
    assert str(refusal.value) == f"{path}:{line}: {sentence}"


@pytest.mark.parametrize(
    "text", ["", "- a\n", "name: [\n", "name: x\n\tbad: y\n", "name: !!python/object:os.system {}\n", "\x00"]
)
def test_what_is_no_scenario_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    """A file that is empty, no mapping or no YAML is refused by name, never with a traceback of the parser."""
    with pytest.raises(ScenarioError, match=r"s\.yaml") as refusal:
        load(tmp_path / "s.yaml", text)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A scenario that does not exist is refused by its path."""
    with pytest.raises(ScenarioError, match=r"none\.yaml: cannot be read"):
        load_scenario(tmp_path / "none.yaml")


def test_arms_of_one_seed_differ_in_kind_and_parameters_only(tmp_path: Path) -> None:
    """Control and legacy share every draw; only what is done differs."""
    scenario = load(tmp_path / "s.yaml", GOOD)
    for seed in range(20):
        control, legacy = (resolve(scenario, JOB, lambda _: 10.0, 150_000.0, seed, arm) for arm in ("control", "legacy"))
        assert [{**fault, "kind": "", "params": {}} for fault in control] == [
            {**fault, "kind": "", "params": {}} for fault in legacy
        ]
        assert {fault["kind"] for fault in control} == {"noop"}
        assert [fault["kind"] for fault in legacy] == ["network-bandwidth", "process-pause"]
        assert legacy[0]["params"]["rate_bytes_per_s"] == 10_000.0
        assert legacy == resolve(scenario, JOB, lambda _: 10.0, 150_000.0, seed, "legacy")


def test_draws_reach_every_rank_and_step_and_are_shared(tmp_path: Path) -> None:
    """Over seeds every rank and step comes up; one role's drawn rank and one range's step are the same in all faults."""
    scenario = load(tmp_path / "s.yaml", GOOD)
    plans = [resolve(scenario, JOB, lambda _: 10.0, 150_000.0, seed, "legacy") for seed in range(200)]
    assert {link["target"]["src"] for link, _ in plans} == {"train0", "train1", "train2", "train3"}
    assert {link["trigger"]["step"] for link, _ in plans} == {4, 5, 6, 7, 8}
    for link, pause in plans:
        assert link["target"]["src"] == pause["target"]["component"]
        assert link["trigger"]["step"] == pause["trigger"]["step"]
        assert link["until"] == {"when": "exit", "stage": "weights_update", "steps_later": 1}
        assert (pause["trigger"]["after_s"], pause["until"]) == (5.0, {"after_s": 2.0})
        assert resolve_expected(scenario, [link, pause], "legacy")["root"] == {
            "stage": "weights_update",
            "component": link["target"]["src"],
        }


def test_a_fault_may_follow_so_many_steps_later(tmp_path: Path) -> None:
    """`steps_later: 2` on the same range is two steps after the drawn one, for every seed."""
    scenario = load(tmp_path / "s.yaml", GOOD.replace("[4, 8], stage: train", "[4, 8], steps_later: 2, stage: train"))
    for seed in range(20):
        link, pause = resolve(scenario, JOB, lambda _: 10.0, 150_000.0, seed, "legacy")
        assert pause["trigger"]["step"] == link["trigger"]["step"] + 2


#: Each form of a trigger as it is written, and the words of it that stand in a plan.
WRITTEN = [
    ("{stage: train, when: error}", {"stage": "train", "when": "error"}),
    ("{stage: train, when: +2.5}", {"stage": "train", "when": "enter", "after_s": 2.5}),
    ("{stage: train, when: +0.5 x timeout(stop_job)}", {"stage": "train", "when": "enter", "after_s": 5.0}),
    (
        "{step: 3, stage: reward, when: exit, role: rollout, rank: 1, occurrence: 2}",
        {"step": 3, "stage": "reward", "when": "exit", "who": "rollout1", "occurrence": 2},
    ),
    ("{metric: samples_per_s, role: rollout, below: 40}", {"metric": "samples_per_s", "below": 40.0, "who": "rollout"}),
    (
        "{after: {step: 2, stage: train, when: error}, then: {stage: cleanup, when: enter}, after_s: 1}",
        {
            "after": {"step": 2, "stage": "train", "when": "error"},
            "then": {"stage": "cleanup", "when": "enter"},
            "after_s": 1.0,
        },
    ),
    (
        "{any: [{once: {stage: train, when: exit}}, {all: [{metric: loss, stage: train, above: 9}]}]}",
        {
            "any": [
                {"once": {"stage": "train", "when": "exit"}},
                {"all": [{"metric": "loss", "above": 9.0, "stage": "train"}]},
            ]
        },
    ),
    ("{every: 3, of: {stage: train, when: exit}}", {"every": 3, "of": {"stage": "train", "when": "exit"}}),
]


@pytest.mark.parametrize(("written", "words"), WRITTEN)
def test_every_form_of_a_trigger_reaches_the_plan(tmp_path: Path, written: str, words: dict) -> None:
    """What a scenario says of when is what the plan holds, seconds resolved; and the injector can read it."""
    text = GOOD.replace("{step: [4, 8], stage: train, when: exit, after_s: 0.5 x timeout(stop_job)}", written)
    assert text != GOOD
    pause = resolve(load(tmp_path / "s.yaml", text), JOB, lambda _: 10.0, 150_000.0, 1, "legacy")[1]
    assert pause["trigger"] == {"after_s": 0.0, **words}
    assert from_plan(pause["trigger"]).repeats == ("every" in words)


def test_what_comes_again_must_end_in_between(tmp_path: Path) -> None:
    """A fault on every nth event that would last to the end of the run is refused."""
    every = GOOD.replace("{step: [4, 8], stage: train, when: exit,", "{every: 2, of: {stage: train, when: exit},")
    load(tmp_path / "s.yaml", every)
    with pytest.raises(ScenarioError, match=r"s\.yaml:14: faults\.1\.until: a fault that comes every so often must end"):
        load(tmp_path / "s.yaml", every.replace("until: {after_s: 2}", "until: {when: end}"))


def test_a_control_does_not_wait_for_an_error_in_vain(tmp_path: Path) -> None:
    """What waits for an error of the job may expire in a control, and only there."""
    text = GOOD.replace("step: [4, 8], stage: train, when: exit,", "stage: train, when: error,")
    scenario = load(tmp_path / "s.yaml", text)
    for arm, marks in (("control", [False, True]), ("legacy", [False, False])):
        faults = resolve(scenario, JOB, lambda _: 10.0, 150_000.0, 1, arm)
        assert [fault.get("may_expire", False) for fault in faults] == marks


def test_an_arm_has_a_posture(tmp_path: Path) -> None:
    """Arms are controls or postures: the scenario's own, the two built in, and sets of switches that it describes."""
    arms = "postures: {acked: {acked_events: true}}\narms: [control, legacy, hardened, acked, hardened-control]"
    scenario = load(tmp_path / "s.yaml", GOOD.replace("job: {steps: 12}", arms))
    assert [scenario.posture_of(arm) for arm in scenario.arms] == ["legacy", "legacy", "hardened", "acked", "hardened"]
    kinds = {
        arm: {fault["kind"] for fault in resolve(scenario, JOB, lambda _: 10.0, 150_000.0, 1, arm)} for arm in scenario.arms
    }
    assert kinds["control"] == kinds["hardened-control"] == {"noop"}
    assert kinds["hardened"] == kinds["acked"] == kinds["legacy"] == {"network-bandwidth", "process-pause"}


def test_each_arm_has_a_claim_of_its_own(tmp_path: Path) -> None:
    """An arm's error, its survival, or nothing is what its plan expects; a control expects nothing."""
    text = GOOD.replace("job: {steps: 12}", "arms: [control, legacy, hardened]")
    text = text.replace("arms: {legacy: {", "arms: {hardened: survives, legacy: {")
    scenario = load(tmp_path / "s.yaml", text)
    faults = resolve(scenario, JOB, lambda _: 10.0, 150_000.0, 1, "legacy")
    claims = {arm: resolve_expected(scenario, faults, arm) for arm in scenario.arms}
    assert claims["control"] == {}
    assert claims["legacy"]["error"]["text"] == "UpdateWeightError"
    assert claims["hardened"] == {"root": claims["legacy"]["root"], "survives": True}


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_scenario_can_be_planned(path: Path) -> None:
    """Each file under scenarios/ is accepted and resolves for many seeds in each of its arms."""
    scenario = load_scenario(path)
    assert scenario.name == path.stem
    for arm in scenario.arms:
        for seed in range(20):
            faults = resolve(scenario, JOB, lambda _: 10.0, 150_000.0, seed, arm)
            assert len(faults) == len(scenario.faults)
            resolve_expected(scenario, faults, arm)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "{role: train, rank: draw}\n",
            "{role: train, rank: 4}\n",
            "there is no train4: this job has train0, train1, train2, train3",
        ),
        ("[4, 8], stage: w", "[4, 13], stage: w", "trigger.step 13 is never reached: the job's last step is 11"),
        ("1.5 x", "100000 x", "f1.params.rate_bytes_per_s: input should be greater than or equal to 100 (got 0.15)"),
    ],
)
def test_what_the_job_does_not_have_is_refused(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    """A rank, step or computed magnitude outside the job's range is refused before anything starts."""
    scenario = load(tmp_path / "s.yaml", GOOD.replace(old, new, 1))
    with pytest.raises(ImpossibleError) as refusal:
        resolve(scenario, JOB, lambda _: 10.0, 150_000.0, 1, "legacy")
    assert str(refusal.value) == sentence
