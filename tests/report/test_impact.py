"""The impact gate: what the job says comes first, then whether a step from the fault on was slow; never what came before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.case import Case
from report.impact import POOR, SLOW, SLOWED, STALE, UNTAUGHT, impact, step_seconds


def case(
    seconds: list[float], fault_step: int = 3, told: str = "none", rewards: Sequence[float] = (), stale: Sequence[int] = ()
) -> Case:
    """A run whose steps took so long, with its first two steps as warm-up, and what it told of each step."""
    history: list[dict[str, Any]] = []
    for step, took_s in enumerate(seconds):
        for phase, at_s in (("enter", 100.0 * step), ("exit", 100.0 * step + took_s)):
            event = {"component": "controller", "step": step, "stage": "train", "phase": phase}
            history.append({"what": "event", "wall_s": at_s, "mono_s": at_s, **event})
    plan = {"faults": [{"id": "f1", "kind": "process-pause", "trigger": {"step": fault_step}}], "warmup_steps": 2}
    told_rows = [
        {"metric": metric, "component": who, "step": step, "value": value}
        for metric, who, values in (("reward", "controller", rewards), ("staleness_count", "rollout0", stale))
        for step, value in enumerate(values)
    ]
    return Case("r1", plan, history, {"impact": told, "valid": True}, metrics=told_rows)


USUAL = [9.0, 9.0, 1.0, 1.0, 1.2, 1.0]


def test_a_step_is_as_long_as_its_announcements_lie_apart() -> None:
    """By step, of the controller alone."""
    assert step_seconds(case(USUAL).history) == pytest.approx(dict(enumerate(USUAL)))


def test_what_the_job_says_comes_first() -> None:
    """Failed, degraded and unknown stay what they are, however long the steps."""
    for told in ("failed", "degraded", "unknown"):
        assert impact(case([1.0] * 6, told=told), [case(USUAL)]) == told


@given(st.floats(0.1, 20.0), st.integers(0, 5), st.integers(0, 5))
def test_only_a_step_from_the_fault_on_counts(took_s: float, step: int, fault_step: int) -> None:
    """Slowed is more than `SLOW` times the longest healthy step that is not warm-up, in the fault's step or a later one."""
    seconds = [1.0] * 6
    seconds[step] = took_s
    slow = step >= fault_step and took_s > SLOW * 1.2
    assert impact(case(seconds, fault_step), [case(USUAL)]) == (SLOWED if slow else "none")


@given(st.floats(0.0, 0.2), st.integers(2, 5), st.integers(2, 5))
def test_a_step_that_taught_nothing_counts_from_the_fault_on(reward: float, step: int, fault_step: int) -> None:
    """A mean reward below a quarter of the poorest healthy one outside warm-up, in the fault's step or a later one."""
    rewards = [0.1] * 6
    rewards[step] = reward
    usual = case(USUAL, rewards=[0.0, 0.0, 0.08, 0.1, 0.12, 0.1])
    poor = step >= fault_step and reward < POOR * 0.08
    assert impact(case(USUAL, fault_step, rewards=rewards), [usual]) == (UNTAUGHT if poor else "none")


def test_weights_older_than_any_healthy_run_has_count() -> None:
    """One version more than the healthy runs' most, from the fault's step on."""
    usual = case(USUAL, stale=[0, 0, 0, 1, 0, 0])
    assert impact(case(USUAL, stale=[0, 0, 0, 1, 2, 0]), [usual]) == STALE
    assert impact(case(USUAL, stale=[0, 0, 2, 1, 1, 0]), [usual]) == "none"


def test_without_healthy_runs_no_step_is_slow() -> None:
    """There is nothing to hold it against."""
    assert impact(case([1.0, 1.0, 1.0, 90.0, 1.0, 1.0]), []) == "none"
