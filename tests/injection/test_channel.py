"""What becomes of packets follows the laws that were asked for."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injection.channel import Channel, Fate
from injection.registry import parameter_problem

COUNT = 40_000


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
@pytest.mark.parametrize(("distribution", "deviation"), [("uniform", 1 / math.sqrt(3)), ("normal", 1.0)])
def test_delays_have_the_mean_spread_and_correlation_asked(distribution: str, deviation: float, correlation: float) -> None:
    """Uniform and normal, correlated or not: mean, standard deviation and lag-one correlation are as asked, within 5 %."""
    channel = Channel(Fate(0.1, 0.01, correlation, distribution), random.Random(4))
    drawn = [channel.hold_s() for _ in range(COUNT)]
    assert statistics.fmean(drawn) == pytest.approx(0.1, rel=0.01)
    assert statistics.pstdev(drawn) == pytest.approx(0.01 * deviation, rel=0.05)
    assert statistics.correlation(drawn[:-1], drawn[1:]) == pytest.approx(correlation, abs=max(0.02, 0.05 * correlation))


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 0.99), st.sampled_from(["uniform", "normal"]), st.integers())
def test_no_packet_goes_back_in_time(delay_s: float, jitter_s: float, correlation: float, shape: str, seed: int) -> None:
    """No delay is negative, and uniform ones stay within the jitter."""
    channel = Channel(Fate(delay_s, jitter_s, correlation, shape), random.Random(seed))
    for held_s in (channel.hold_s() for _ in range(20)):
        assert held_s >= 0
        assert shape == "normal" or abs(held_s - delay_s) <= jitter_s * (1 + 1e-9)


@pytest.mark.parametrize(("part", "burst"), [(0.05, 5.0), (0.3, 2.0), (0.5, 20.0)])
def test_bursts_have_the_part_and_the_length_asked(part: float, burst: float) -> None:
    """Of many packets that part is lost, in runs of that mean length."""
    channel = Channel(Fate(loss_ratio=part, burst_packets=burst), random.Random(4))
    lost = [channel.loses() for _ in range(10 * COUNT)]
    runs = sum(one and not before for before, one in zip([False, *lost], lost, strict=False))
    assert sum(lost) / len(lost) == pytest.approx(part, rel=0.05)
    assert sum(lost) / runs == pytest.approx(burst, rel=0.05)


def test_bursts_without_room_are_refused() -> None:
    """A part that cannot be lost in runs so short is refused with the rule."""
    assert parameter_problem("network-loss", {"loss_ratio": 0.8, "burst_packets": 2.0}).count(
        "at least loss_ratio / (1 - loss_ratio)"
    )
    assert parameter_problem("network-loss", {"loss_ratio": 0.8, "burst_packets": 4.1}) == ""
    assert parameter_problem("network-loss", {"loss_ratio": 0.0}).startswith("loss_ratio: ")
