"""Deadlines learned from durations: few false alarms, and not stretched by stalls."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.resilience.deadline import LearnedDeadline


def _learned(durations: list[float], **options: float) -> LearnedDeadline:
    deadline = LearnedDeadline(**{"warm_up": 0, **options})
    for seconds in durations:
        deadline.observe(seconds)
    return deadline


def test_the_next_healthy_duration_is_within_the_bound() -> None:
    """Of log-normal durations fewer than 1 in 200 exceed a bound learned from five, at a spread up to 60 %; none up to 30 %."""
    for sigma, allowed in ((0.05, 0), (0.3, 0), (0.6, 10)):
        dice, alarms = random.Random(1), 0
        for _ in range(2000):
            bound_s = _learned([math.exp(dice.gauss(0.0, sigma)) for _ in range(5)]).bound_s()
            alarms += math.exp(dice.gauss(0.0, sigma)) > bound_s
        assert alarms <= allowed


def test_steady_durations_give_a_tight_bound() -> None:
    """What always takes two seconds is given up within six times that."""
    assert 2.0 < _learned([2.0] * 10).bound_s() < 12.0


def test_stalls_among_them_do_not_stretch_it() -> None:
    """A quarter of the durations being a thousand times as long changes the bound less than threefold."""
    dice = random.Random(2)
    healthy = [math.exp(dice.gauss(0.0, 0.1)) for _ in range(40)]
    stalled = [seconds * 1000 if index % 4 == 0 else seconds for index, seconds in enumerate(healthy)]
    assert _learned(stalled).bound_s() < 3 * _learned(healthy).bound_s()


def test_the_cold_ones_are_forgotten() -> None:
    """The first durations do not count, and fewer than five give no bound."""
    deadline = LearnedDeadline(warm_up=2)
    for seconds in (100.0, 100.0, 1.0, 1.0, 1.0, 1.0):
        deadline.observe(seconds)
        assert deadline.bound_s() == math.inf
    deadline.observe(1.0)
    assert deadline.bound_s() < 10.0


@given(st.lists(st.floats(0.001, 1000.0), max_size=30), st.floats(0.5, 100.0), st.floats(0.1, 5.0), st.floats(0.1, 10.0))
def test_laws_of_the_limit(durations: list[float], configured_s: float, floor_s: float, scale: float) -> None:
    """The limit never exceeds the configured time-out nor falls below the floor; the bound scales with the durations."""
    deadline = _learned(durations)
    limit_s = deadline.limit_s(configured_s, floor_s)
    assert min(configured_s, floor_s) <= limit_s <= configured_s
    assert _learned([seconds * scale for seconds in durations]).bound_s() == pytest.approx(deadline.bound_s() * scale, rel=1e-6)
