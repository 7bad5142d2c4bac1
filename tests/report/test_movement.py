"""What is called moved, and what is not."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.contrast import contrasts
from report.movement import CANNOT_TELL, MOVED, OUTSIDE, WITHIN, absent, movements, outside_share
from report.sample import Sample
from storage.bands import Band, band

KEY = ("train", "timeperf/train_step", "train")


def sample(value: float, step: int = 6, component: str = "train0") -> Sample:
    return Sample("train", "timeperf/train_step", "s", component, step, value)


def healthy(n: int = 20, seed: int = 1, sd: float = 0.1) -> Band:
    noise = random.Random(seed)
    return band(*KEY, "s", [noise.gauss(1.0, sd) for _ in range(n)], runs=4)


@given(st.floats(0.01, 100), st.integers(4, 40))
def test_outside_the_t_interval_is_p_below_five_percent(value, n):
    """Interval and p value agree: outside the 95 % interval exactly where p < 0.05."""
    one = movements([sample(value)], {KEY: healthy(n)})[0]
    assert one.p is not None and (one.verdict in (OUTSIDE, MOVED)) == (one.p < 0.05)
    assert (one.difference_lo > 0 or one.difference_hi < 0) == (one.verdict != WITHIN)


def test_slowdown_is_told_with_ratio_difference_and_interval():
    """Ten times the healthy time is moved, with a ratio near 10 inside its interval and both bands said to be left."""
    one = movements([sample(10.0)], {KEY: healthy()})[0]
    assert one.verdict == MOVED and one.beyond_2s and one.n == 20 and one.q is not None and one.q < 1e-6
    assert one.ratio is not None and one.ratio_lo is not None and one.ratio_hi is not None
    assert one.ratio_lo < one.ratio < one.ratio_hi and one.ratio == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_healthy_samples_cannot_tell(n):
    """With fewer than four healthy samples the answer is "cannot tell", however far the value lies."""
    one = movements([sample(1e6)], {KEY: healthy(n)})[0]
    assert one.verdict == CANNOT_TELL and one.p is None and one.q is None


def test_constant_metric_that_changes_stands_out_without_a_t_value():
    """A metric that never varied has no t value: equal is within, another value stands out with the smallest rank p."""
    constant = band(*KEY, "s", [128.0] * 19, runs=4)
    same, other = movements([sample(128.0), sample(64.0)], {KEY: constant})
    assert (same.verdict, same.p) == (WITHIN, 1.0)
    assert other.verdict in (OUTSIDE, MOVED) and other.p == pytest.approx(0.1) and other.constant


def test_many_healthy_samples_are_hardly_ever_called_moved():
    """Of 2000 healthy samples about 5 % lie outside their interval, and almost none is called moved: q counts them all."""
    noise = random.Random(7)
    judged = movements([sample(noise.gauss(1.0, 0.1), step) for step in range(2000)], {KEY: healthy(200)})
    outside, tested = outside_share(judged)
    assert tested == 2000 and 0.02 < outside / tested < 0.10
    assert sum(one.verdict == MOVED for one in judged) <= 3


@given(st.lists(st.floats(0.1, 30), min_size=1, max_size=30))
def test_q_is_never_below_p_and_keeps_its_order(values):
    """q >= p for each sample, and a smaller p never has a larger q."""
    judged = sorted(movements([sample(value) for value in values], {KEY: healthy()}), key=lambda one: one.p or 0.0)
    assert all((one.q or 0.0) >= (one.p or 0.0) - 1e-12 for one in judged)
    assert all((a.q or 0.0) <= (b.q or 0.0) + 1e-12 for a, b in pairwise(judged))


def test_silence_is_found():
    """A metric that has samples before the fault and none after it is named; one that goes on, or never was, is not."""
    bands = {KEY: healthy(), ("a", "b", "c"): healthy()}
    assert absent([sample(1.0, 2)], bands, 5) == [KEY]
    assert absent([sample(1.0, 2), sample(1.0, 5)], bands, 5) == []


def test_contrast_finds_a_difference_and_admits_when_it_cannot():
    """Twice as slow over ten steps is moved, its interval holds the truth 95 times in 100; one step cannot tell."""
    noise, held = random.Random(3), 0
    for _ in range(300):
        slow = [sample(noise.gauss(2.0, 0.1), step) for step in range(10)]
        fast = [sample(noise.gauss(1.0, 0.1), step) for step in range(10)]
        found = contrasts(slow, fast, 0)[0]
        assert found.verdict == MOVED and found.ratio == pytest.approx(2, rel=0.2)
        held += (found.difference_lo or 0.0) < 1.0 < (found.difference_hi or 0.0)
    assert 0.91 < held / 300 < 0.99
    alone = contrasts(slow[:1], fast[:1], 0)[0]
    assert (alone.verdict, alone.n, alone.n_reference, alone.difference_lo) == (CANNOT_TELL, 1, 1, None)
    assert contrasts(fast, fast, 0)[0].verdict == CANNOT_TELL


def test_contrast_of_two_constants_uses_the_permutation():
    """Two constants that differ over many steps are told apart; over three steps they are not."""
    many = contrasts([sample(64.0, s) for s in range(6)], [sample(128.0, s) for s in range(6)], 0)[0]
    few = contrasts([sample(64.0, s) for s in range(3)], [sample(128.0, s) for s in range(3)], 0)[0]
    assert many.verdict == MOVED and many.p == pytest.approx(2 / math.comb(12, 6)) and few.verdict == CANNOT_TELL
