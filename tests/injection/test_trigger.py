"""Laws of the trigger, over any run of any job; no cluster, no clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injection.trigger import Expired, Fire, Point, Reading, StageEnd, Trigger, Wait, ending, from_plan, waits_for_figures
from storage.records import Phase, Stage, StageEvent

STAGES = st.sampled_from(["rollout", "train"])
PHASES = st.sampled_from([str(phase) for phase in Phase])
WHO = st.sampled_from(["", "controller", "rollout", "rollout0", "rollout1"])
COMPONENTS = st.sampled_from(["controller", "rollout0", "rollout1"])
STEPS = st.integers(0, 4)
EVENTS = st.builds(
    StageEvent, wall_s=st.just(0.0), mono_s=st.just(0.0), component=COMPONENTS, step=STEPS, stage=STAGES, phase=PHASES
)
READINGS = st.builds(
    Reading, component=COMPONENTS, step=STEPS, stage=STAGES, metric=st.sampled_from(["loss", "kl"]), value=st.integers(0, 9)
)
#: What a job announces and tells, in order of step.
RUNS = st.lists(EVENTS | READINGS, max_size=40).map(lambda run: sorted(run, key=lambda heard: heard.step))

POINTS = st.fixed_dictionaries(
    {"stage": STAGES, "when": PHASES}, optional={"step": STEPS, "who": WHO, "occurrence": st.integers(1, 3)}
)
BOUNDS = st.fixed_dictionaries({"metric": st.sampled_from(["loss", "kl"]), "who": WHO}, optional={"stage": STAGES})
FIGURES = BOUNDS.flatmap(lambda one: st.sampled_from(["below", "above"]).map(lambda side: {**one, side: 5}))


def composed(parts: st.SearchStrategy) -> st.SearchStrategy:
    several = st.lists(parts, min_size=1, max_size=3)
    return (
        several.map(lambda some: {"all": some})
        | several.map(lambda some: {"any": some})
        | st.tuples(parts, parts).map(lambda two: {"after": two[0], "then": two[1]})
        | parts.map(lambda one: {"once": one})
        | st.tuples(st.integers(1, 3), parts).map(lambda two: {"every": two[0], "of": two[1]})
    )


CONDITIONS = st.recursive(POINTS | FIGURES, composed, max_leaves=6)


def hear(trigger: Trigger, run: list) -> tuple[Trigger, list[int], list[str]]:
    """The trigger after a run, the places in it where it fired, and the reasons for which it expired."""
    fired, expired = [], []
    for place, heard in enumerate(run):
        trigger, decision = trigger.hear(heard)
        if isinstance(decision, Fire):
            fired.append(place)
        if isinstance(decision, Expired):
            expired.append(decision.reason)
    left = trigger.end()
    return trigger, fired, expired + ([left.reason] if isinstance(left, Expired) else [])


@given(CONDITIONS, RUNS)
def test_at_the_end_it_has_either_fired_or_expired(words: dict[str, Any], run: list) -> None:
    """Whatever is asked and whatever happens: exactly one of the two, and no more than one reason."""
    _, fired, expired = hear(from_plan(words), run)
    assert bool(fired) != bool(expired)
    assert len(expired) <= 1 and all(expired)


@given(CONDITIONS, RUNS)
def test_it_fires_once_unless_it_is_every_so_often(words: dict[str, Any], run: list) -> None:
    """Only `every` as the outermost word fires again."""
    _, fired, _ = hear(from_plan(words), run)
    assert "every" in words or len(fired) <= 1


@given(CONDITIONS, RUNS)
def test_what_comes_later_changes_nothing_before(words: dict[str, Any], run: list) -> None:
    """It decides on what it has heard: the same beginning of a run is the same beginning of its decisions."""
    _, fired, _ = hear(from_plan(words), run)
    for cut in range(len(run)):
        assert hear(from_plan(words), run[:cut])[1] == [place for place in fired if place < cut]


def leaves(words: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [
        *words.get("all", ()),
        *words.get("any", ()),
        *(words[key] for key in ("after", "then", "once", "of") if key in words),
    ]
    return [leaf for part in inner for leaf in leaves(part)] if inner else [words]


def fits(leaf: dict[str, Any], heard: StageEvent | Reading) -> bool:
    if leaf.get("who", "") not in ("", heard.component, heard.component[:-1]):
        return False
    if "metric" in leaf:
        told = isinstance(heard, Reading) and heard.metric == leaf["metric"] and leaf.get("stage", heard.stage) == heard.stage
        return told and (heard.value < 5 if "below" in leaf else heard.value > 5)
    here = isinstance(heard, StageEvent) and (heard.stage, heard.phase) == (leaf["stage"], leaf["when"])
    return here and leaf.get("step", heard.step) == heard.step


@given(CONDITIONS, RUNS)
def test_it_never_fires_beside_its_points(words: dict[str, Any], run: list) -> None:
    """The very thing on which it fires is one that it asks for."""
    for place in hear(from_plan(words), run)[1]:
        assert any(fits(leaf, run[place]) for leaf in leaves(words))


@given(POINTS, RUNS)
def test_a_point_is_met_exactly_where_it_is(words: dict[str, Any], run: list) -> None:
    """A point fires at the first announcement that fits, or at the nth if so asked; it expires when its step is over."""
    places = [place for place, heard in enumerate(run) if fits(words, heard)]
    _, fired, expired = hear(from_plan(words), run)
    assert fired == places[words.get("occurrence", 1) - 1 :][:1]
    passed = "step" in words and any(isinstance(heard, StageEvent) and heard.step > words["step"] for heard in run)
    assert not expired or expired[0].startswith("step " if passed else "the job ended before ")


@given(st.lists(POINTS | FIGURES, min_size=1, max_size=3), RUNS)
def test_all_is_the_last_and_any_the_first(parts: list[dict[str, Any]], run: list) -> None:
    """Of single conditions: all of them together fire with the latest first firing, any of them with the earliest."""
    firsts = [hear(from_plan(part), run)[1] for part in parts]
    whole = [places[0] for places in firsts if places]
    assert hear(from_plan({"all": parts}), run)[1] == ([max(whole)] if len(whole) == len(parts) else [])
    assert hear(from_plan({"any": parts}), run)[1] == ([min(whole)] if whole else [])


@given(POINTS | FIGURES, POINTS | FIGURES, RUNS)
def test_then_hears_only_what_comes_after(first: dict[str, Any], then: dict[str, Any], run: list) -> None:
    """`after` A `then` B fires where B alone would in what is left of the run behind A's first firing."""
    begun = hear(from_plan(first), run)[1]
    rest = hear(from_plan(then), run[begun[0] + 1 :])[1] if begun else []
    assert hear(from_plan({"after": first, "then": then}), run)[1] == [begun[0] + 1 + place for place in rest]


@given(st.integers(1, 3), POINTS, RUNS)
def test_every_nth_is_every_nth(n: int, point: dict[str, Any], run: list) -> None:
    """Of all the times it would come, each nth; within `once`, the first."""
    times = hear(from_plan({"every": 1, "of": point}), run)[1]
    assert hear(from_plan({"every": n, "of": point}), run)[1] == times[n - 1 :: n]
    assert hear(from_plan({"every": 1, "of": {"once": point}}), run)[1] == times[:1]


def test_a_bound_is_passed_once_each_time() -> None:
    """A figure that stays below its bound does not fire again; one that comes back and falls once more does."""
    run = [Reading("rollout0", 0, "rollout", "kl", value) for value in (9, 3, 2, 9, 5, 4)]
    assert hear(from_plan({"every": 1, "of": {"metric": "kl", "below": 5}}), run)[1] == [1, 5]


def test_reads_the_plan() -> None:
    """The plan's words become the trigger and the ending."""
    plain = from_plan({"step": 6, "stage": "train", "when": "error", "after_s": 1})
    assert plain == Trigger(Point("train", "error", 6), after_s=1.0)
    assert ending({"when": "exit", "stage": "train", "steps_later": 1}, step=6) == StageEnd("train", 7)
    assert ending({"when": "end"}, 6) is None
    assert ending({"after_s": 2.0}, 6) is None
    assert ending({"event": {"stage": "train", "when": "error"}}, 6) == Point("train", "error")
    assert waits_for_figures({"any": [{"once": {"metric": "kl", "below": 1}}]}) and not waits_for_figures({"stage": "train"})
    with pytest.raises(KeyError):
        from_plan({"stages": "train"})


@given(CONDITIONS)
def test_a_trigger_that_is_over_only_waits(words: dict[str, Any]) -> None:
    """After its one firing nothing it hears means anything any more."""
    trigger = Trigger(from_plan({"once": words}).condition, fired=1)
    event = StageEvent(0.0, 0.0, "controller", 4, "train", "enter")
    assert trigger.over and trigger.hear(event) == (trigger, Wait())


@given(EVENTS, st.sampled_from([str(stage) for stage in Stage]), STEPS)
def test_an_ending_is_the_good_or_bad_end_of_its_stage_or_anything_later(event: StageEvent, stage: str, step: int) -> None:
    """A fault that lasts to a stage's exit ends there also when the stage fails, and never outlives the step."""
    at_end = event.step == step and event.stage == stage and event.phase in ("exit", "error")
    assert StageEnd(stage, step).hear(event)[1] == (at_end or event.step > step)
