from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from injection.trigger import Ending, Expired, Fire, Trigger, Wait, ending, from_plan
from storage.records import Phase, Stage, StageEvent

STAGES = st.sampled_from([str(stage) for stage in Stage])
PHASES = st.sampled_from([str(phase) for phase in Phase])
COMPONENTS = st.sampled_from(["controller", "rollout0", "rollout1"])
STEPS = st.integers(0, 12)
EVENTS = st.builds(
    StageEvent, wall_s=st.just(0.0), mono_s=st.just(0.0), component=COMPONENTS, step=STEPS, stage=STAGES, phase=PHASES
)
TRIGGERS = st.builds(Trigger, stage=STAGES, step=STEPS, when=PHASES, after_s=st.just(0.5), component=st.just("") | COMPONENTS)


@given(TRIGGERS, EVENTS)
def test_fires_at_its_point_and_nowhere_else(trigger: Trigger, event: StageEvent) -> None:
    """A trigger fires exactly on the event that has its step, stage, phase and component, and tells its delay."""
    here = (event.step, event.stage, event.phase) == (trigger.step, trigger.stage, trigger.when)
    meant = here and trigger.component in ("", event.component)
    assert (trigger.step_on(event) == Fire(0.5)) == meant


@given(TRIGGERS, EVENTS)
def test_expires_exactly_when_a_later_step_is_announced(trigger: Trigger, event: StageEvent) -> None:
    """A later step expires a trigger, anything else never does."""
    assert isinstance(trigger.step_on(event), Expired) == (event.step > trigger.step)


@given(TRIGGERS, st.lists(EVENTS, max_size=30))
def test_every_run_ends_in_one_verdict(trigger: Trigger, events: list[StageEvent]) -> None:
    """Over events in order of step, a trigger waits until one decision; without any, the end expires it."""
    ordered = sorted(events, key=lambda event: event.step)
    decisions = [trigger.step_on(event) for event in ordered]
    first = next((decision for decision in decisions if not isinstance(decision, Wait)), trigger.end())
    fired = any(
        (e.step, e.stage, e.phase) == (trigger.step, trigger.stage, trigger.when) and trigger.component in ("", e.component)
        for e in ordered
    )
    assert isinstance(first, Fire) == fired
    assert fired or "announced" in first.reason


def test_reads_the_plan() -> None:
    """The plan's words become the trigger and the ending."""
    assert from_plan({"step": 6, "stage": "train", "when": "error", "after_s": 1}) == Trigger("train", 6, "error", 1.0)
    assert ending({"when": "exit", "stage": "train", "step": 7}) == Ending("train", 7)
    assert ending({"when": "end"}) is None
    assert ending({"after_s": 2.0}) is None


@given(EVENTS, STAGES, STEPS)
def test_an_ending_is_the_good_or_bad_end_of_its_stage_or_anything_later(event: StageEvent, stage: str, step: int) -> None:
    """A fault that lasts to a stage's exit ends there also when the stage fails, and never outlives the step."""
    at_end = event.step == step and event.stage == stage and event.phase in ("exit", "error")
    assert Ending(stage, step).reached_by(event) == (at_end or event.step > step)
