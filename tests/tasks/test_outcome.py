"""What truly happened is read off a run's own records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.outcome import (
    PLACE_IN_STEP,
    errors_of,
    expected_of,
    final_error,
    headline,
    hop_of,
    invalid_because,
    stage_at,
    survival_of,
)
from storage.layout import run_paths
from tasks.outcome import outcome_of
from tests.report.synthetic import START_S, Synthetic, weight_sync, worker_lost, write_run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))


def test_error_in_another_stage_is_a_crossed_hop():
    """A worker lost in rollout that fails train: the hop names both stages, the step distance and the time between."""
    outcome = outcome_of(write_run(worker_lost()))
    assert outcome["root"]["stage"] == "rollout" and outcome["root"]["component"] == "rollout1"
    assert outcome["final_error"]["stage"] == "train" and "expected 64, got 128" in outcome["final_error"]["text"]
    assert outcome["hop"]["crossed"] and outcome["hop"]["step_distance"] == 0 and outcome["hop"]["stage_distance"] == 2
    assert outcome["hop"]["fault_to_error_s"] > 0
    assert outcome["expected"]["came_true"] and outcome["impact"] == "failed" and outcome["valid"]


def test_first_error_is_the_workers_not_the_controllers():
    """The first error anywhere is named with its component, stage and step, and its text is the telling line."""
    outcome = outcome_of(write_run(weight_sync()))
    first = outcome["first_error"]
    assert (first["component"], first["role"], first["stage"], first["step"]) == ("rollout0", "rollout", "weights_update", 6)
    assert first["text"].startswith("InferenceEngineError: UpdateWeightError")
    assert outcome["hop"]["crossed"] is False and outcome["steps_done"] == 6


def test_healthy_run_has_no_root_and_no_impact():
    """A control arm that finishes: valid, no root, no hop, nothing expected, no impact."""
    outcome = outcome_of(write_run(Synthetic()))
    assert outcome["valid"] and outcome["impact"] == "none" and outcome["steps_done"] == outcome["steps_planned"] == 12
    assert outcome["root"] is outcome["hop"] is outcome["expected"] is outcome["first_error"] is None


def test_fault_that_is_not_proven_gone_makes_the_run_invalid():
    """Applied alone is not enough: the proof that is missing is named."""
    outcome = outcome_of(write_run(worker_lost(gone=False)))
    assert not outcome["valid"] and outcome["invalid_because"] == ["fault f1 (process-kill) is not proven gone"]


@pytest.mark.parametrize("word", ["expired", "stuck", "invalid"])
def test_bad_word_in_the_history_is_the_reason(word):
    """An expired, stuck or invalid fault is the reason given, with the injector's own words."""
    plan = {"faults": [{"id": "f1", "kind": "process-kill"}]}
    lines = [{"what": what, "fault_id": "f1"} for what in ("fired", "applied", "verified", "gone")]
    assert invalid_because(plan, lines) == []
    reasons = invalid_because(plan, [*lines, {"what": word, "fault_id": "f1", "reason": "the\nend"}])
    assert reasons == [f"fault f1 (process-kill) {word}: the end"]


def test_a_receipt_that_disagrees_does_not_count():
    """A verified line whose measurement says no leaves the fault unverified."""
    plan = {"faults": [{"id": "f1", "kind": "process-kill"}]}
    lines = [{"what": what, "fault_id": "f1", "ok": what != "verified"} for what in ("fired", "applied", "verified", "gone")]
    assert invalid_because(plan, lines) == ["fault f1 (process-kill) was not verified"]


def test_expected_wants_one_error_with_all_parts():
    """Stage from one error and text from another do not make the expectation true."""
    plan = {
        "faults": [{"kind": "process-kill"}],
        "expected": {"error": {"stage": "train", "role": "controller", "text": "boom"}},
    }
    errors = [
        {"stage": "train", "role": "controller", "text": "x"},
        {"stage": "rollout", "role": "controller", "text": "boom"},
    ]
    expected = expected_of(plan, errors, {})
    assert expected is not None and all(expected["parts"].values()) and not expected["came_true"]


def test_a_fault_that_comes_again_is_proved_each_time():
    """A fault that fired twice must be applied, verified and gone twice."""
    plan = {"faults": [{"id": "f1", "kind": "process-pause"}]}
    lines = [{"what": what, "fault_id": "f1"} for what in ("fired", "applied", "verified", "gone")]
    assert invalid_because(plan, lines * 2) == []
    once_unproved = [*lines, *(line for line in lines if line["what"] != "verified")]
    assert invalid_because(plan, once_unproved) == ["fault f1 (process-pause) fired 2 times, but is verified only 1 times"]


def test_what_follows_a_failure_may_expire_where_nothing_fails():
    """A control whose second noop waits for an error of the job is valid without it, if the plan says so."""
    fault = {"id": "f1", "kind": "noop", "may_expire": True}
    expired = [{"what": what, "fault_id": "f1"} for what in ("armed", "expired")]
    assert invalid_because({"faults": [fault]}, expired) == []
    assert invalid_because({"faults": [{**fault, "may_expire": False}]}, expired) == ["fault f1 (noop) expired"]


def test_errors_of_the_cleanup_cover_the_one_that_ended_the_job():
    """Whoever reads the log from its end meets the cleanup's error first, so that is where it came out."""

    def error(stage: str, source: str, text: str, wall_s: float) -> dict:
        where = {"component": "controller", "role": "controller", "stage": stage, "step": 5}
        return {**where, "source": source, "text": text, "wall_s": wall_s}

    oom = error("train", "seam", "TrainEngineError: out of memory", 1.0)
    covering = error("cleanup", "log", "Error stopping job 7f: Request timeout", 2.0)
    final = final_error([oom, covering])
    assert (final["stage"], final["text"]) == ("cleanup", "Error stopping job 7f: Request timeout")
    assert final_error([oom])["stage"] == "train"
    named_again = error("cleanup", "log", "First cause: TrainEngineError: out of memory", 3.0)
    assert final_error([oom, covering, named_again])["stage"] == "train"


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 4), st.sampled_from([8.0, 4.0])), max_size=6), st.booleans())
def test_surviving_takes_every_step_and_every_sample(steps, batches, failed):
    """It holds exactly when each step was trained once, on the whole batch, and nothing ended the job."""
    plan = {"job": {"steps": steps, "prompts_per_step": 2, "samples_per_prompt": 4}}
    rows = [{"step": step, "value": size} for step, size in batches]
    done = len({step for step, _ in batches})
    parts = survival_of(plan, done, {"stage": "train"} if failed else None, rows)
    whole = sorted(batches) == [(step, 8.0) for step in range(steps)]
    assert all(parts.values()) == (whole and not failed)


def test_a_claim_to_survive_is_held_to_the_tables():
    """An arm that is to survive is as expected only if the controller told a whole batch for every step."""
    spec = Synthetic(scenario="worker-kill", arm="hardened", kind="process-kill")
    paths = write_run(spec)
    plan = json.loads(paths.plan.read_text())
    plan |= {"expected": {"root": {"stage": "rollout", "component": "train1"}, "survives": True}}
    plan["job"] |= {"prompts_per_step": 16, "samples_per_prompt": 8}
    paths.plan.write_text(json.dumps(plan))
    expected = outcome_of(paths)["expected"]
    assert expected == {"survives": True, "parts": {"steps": True, "error": True, "samples": True}, "came_true": True}
    plan["job"] |= {"samples_per_prompt": 9}
    paths.plan.write_text(json.dumps(plan))
    assert outcome_of(paths)["expected"]["parts"]["samples"] is False


def test_damaged_records_are_named_gaps(tmp_path: Path):
    """A torn plan, a torn history line and a torn segment are named; what is readable is still told."""
    paths = write_run(worker_lost())
    with paths.history.open("a") as file:
        file.write('{"what": "event", "stage"')
    segment = next(paths.table("logs").glob("part-*"))
    segment.write_bytes(segment.read_bytes()[:100])
    outcome = outcome_of(paths)
    assert any("history" in gap for gap in outcome["gaps"]) and any(gap.startswith("logs: ") for gap in outcome["gaps"])
    assert outcome["final_error"]["stage"] == "train"
    paths.plan.write_text("{")
    assert outcome_of(paths)["invalid_because"] == ["it has no readable plan"]


def test_outcome_is_plain_json():
    """An outcome goes through JSON unchanged."""
    outcome = outcome_of(write_run(worker_lost()))
    assert json.loads(json.dumps(outcome)) == outcome


def test_unknown_run_is_one_sentence():
    """A run that does not exist is refused by name."""
    with pytest.raises(ValueError, match="unknown run: r404"):
        outcome_of(run_paths("r404"))


@given(st.lists(st.tuples(st.sampled_from(sorted(PLACE_IN_STEP)), st.integers(0, 20)), max_size=8), st.floats(0, 100))
def test_stage_at_is_the_last_stage_entered(visits, after):
    """For any order of stages, the stage at an instant is the last one entered up to it."""
    events = [
        {"wall_s": START_S + 10.0 * i, "component": "controller", "phase": "enter", "stage": stage, "step": step}
        for i, (stage, step) in enumerate(visits)
    ]
    entered = [visit for i, visit in enumerate(visits) if 10.0 * i <= after]
    assert stage_at(events, START_S + after) == (entered[-1] if entered else ("", -1))


@given(st.text(max_size=400))
def test_headline_is_one_bounded_line(text):
    """The telling line of any text is one line of bounded length."""
    line = headline(text)
    assert len(line.splitlines()) <= 1 and len(line) <= 240


def test_hop_without_known_stages_has_no_distance():
    """A raw stage of a foreign trainer has no place in the order: the distance is unknown, not a number."""
    root = {"component": "x", "stage": "raw", "step": 1, "wall_s": None}
    hop = hop_of(root, {"stage": "train", "step": -1}, errors_of([], []))
    assert hop is not None and hop["stage_distance"] is None and hop["step_distance"] is None
