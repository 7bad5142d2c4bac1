"""Bands: the range of healthy values, by the book."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from storage.bands import band, baseline_bands
from storage.intervals import INTERVALS, log_t_prediction, p_values, prediction_factor
from storage.layout import run_paths
from storage.peers import LEAST, lasts, peer_p_values
from storage.schemas import METRICS
from storage.writer import TableWriter


def make_run(run_id: str, rows: list[tuple[str, int, str, str, float | None]]) -> None:
    with TableWriter(run_paths(run_id).create().table("metrics"), METRICS) as writer:
        writer.append(
            [(0.0, 0.0, "h", component, step, stage, metric, "s", value) for component, step, stage, metric, value in rows]
        )


def test_prediction_factors_are_those_of_the_tables():
    """t(.975, n-1)·sqrt(1+1/n) for n = 3, 5, 10, 20; nothing can be predicted from one value."""
    assert [round(prediction_factor(n), 2) for n in (3, 5, 10, 20)] == [4.97, 3.04, 2.37, 2.14]
    assert math.isnan(prediction_factor(1))


@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_t_interval_holds_what_it_promises(n):
    """One further healthy value falls inside with probability 0.95, and inside mean ± 2 sd less often, at every n."""
    values = np.random.default_rng(n).normal(10.0, 3.0, size=(10_000, n + 1))
    bands = [band("s", "m", "r", "s", row[:-1], 1) for row in values]
    inside_t = np.mean([one.lo_t <= row[-1] <= one.hi_t for one, row in zip(bands, values, strict=True)])
    inside_2s = np.mean([one.lo2s <= row[-1] <= one.hi2s for one, row in zip(bands, values, strict=True)])
    nominal = 1 - 2 * stats.t.sf(2 / math.sqrt(1 + 1 / n), n - 1)
    assert inside_t == pytest.approx(0.95, abs=0.01)
    assert inside_2s == pytest.approx(nominal, abs=0.01) and inside_2s < inside_t


def test_warmup_missed_and_stepless_samples_take_no_part(tmp_path, monkeypatch):
    """Per stage, metric and role over ranks and runs, each run without its own first steps."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    make_run("ra", [("train0", step, "train", "loss", float(step)) for step in range(5)])
    make_run("rb", [("train1", step, "train", "loss", float(step)) for step in range(10, 14)])
    make_run(
        "rc", [("train0", 1, "train", "loss", 99.0), ("train0", 9, "train", "loss", None), ("train0", -1, "", "cpu_ratio", 1.0)]
    )
    (one,) = baseline_bands(["ra", "rb", "rc"], warmup_steps=2)
    assert (one.stage, one.metric, one.role, one.unit, one.n, one.runs) == ("train", "loss", "train", "s", 5, 2)
    sample = [2.0, 3.0, 4.0, 12.0, 13.0]
    assert one.mean == pytest.approx(np.mean(sample)) and one.sd == pytest.approx(np.std(sample, ddof=1))
    assert baseline_bands(["ra"], warmup_steps=9) == []


def test_one_value_is_no_band(tmp_path, monkeypatch):
    """From a single sample the mean is told and all ends are NaN."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    make_run("ra", [("controller", 0, "train", "loss", 4.0)])
    (one,) = baseline_bands(["ra"], warmup_steps=0)
    assert one.mean == 4.0 and all(math.isnan(end) for end in (one.sd, one.lo2s, one.hi2s, one.lo_t, one.hi_t))


def test_the_interval_of_logarithms_holds_skewed_values():
    """Of log-normal times it lets 5 % out at n = 5, as it promises."""
    values = np.exp(np.random.default_rng(5).normal(0.0, 0.5, size=(10_000, 6)))
    outside = np.mean([not low <= row[-1] <= high for row in values for low, high in [log_t_prediction(row[:-1])]])
    assert outside == pytest.approx(0.05, abs=0.01)


def test_one_wild_value_widens_all_but_the_robust_interval():
    """Nineteen values near 1 and one of 100: only median and MAD still call 20 strange."""
    values = [*np.random.default_rng(1).normal(1.0, 0.1, 19), 100.0]
    strange = {name for name, interval in INTERVALS.items() if not interval(values)[0] <= 20 <= interval(values)[1]}
    assert "median and MAD" in strange and "mean ± 2 sd" not in strange


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20), st.floats(0.1, 100), st.floats(-1e3, 1e3))
def test_intervals_follow_a_change_of_unit(values, scale, shift):
    """Values times a factor plus a constant: so are the ends (of all but the logarithms')."""
    for name in ("mean ± 2 sd", "t prediction", "median and MAD"):
        low, high = INTERVALS[name](values)
        assert low <= high
        moved = INTERVALS[name]([scale * value + shift for value in values])
        room = 1e-6 * (1 + scale * (abs(low) + abs(high)) + abs(shift))
        assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=room)


@given(st.lists(st.floats(0.01, 1e6), min_size=3, max_size=20).filter(lambda values: max(values) > 1.01 * min(values)))
def test_p_is_a_twentieth_at_the_ends_of_the_interval(values):
    """The p of a value and the interval of logarithms say the same; farther out it is smaller, and zero is farthest."""
    low, high = log_t_prediction(values)
    assert p_values([low, high], values) == pytest.approx([0.05, 0.05], rel=1e-3)
    farther, farthest = p_values([2 * high, 0.0], values)
    assert farthest < farther < 0.05


def test_what_does_not_vary_is_itself_or_strange():
    """Of values that are all the same one more of them is sure, any other impossible."""
    assert p_values([3.0, 4.0, 0.0], [3.0, 3.0]) == [1.0, 0.0, 0.0] and p_values([0.0, 1.0], [0.0, 0.0, 0.0]) == [1.0, 0.0]


def test_a_healthy_worker_is_called_strange_as_rarely_as_promised():
    """One worker in twenty of healthy ones; of one that is far slower than its peers, and of no other, p is small."""
    rows = np.exp(np.random.default_rng(3).normal(0.0, 0.3, size=(2_000, LEAST)))
    ps = [p for row in rows for p in peer_p_values({f"train{rank}": value for rank, value in enumerate(row)}).values()]
    assert np.mean(np.asarray(ps) <= 0.05) == pytest.approx(0.05, abs=0.01)
    found = peer_p_values({"train0": 1.0, "train1": 1.1, "train2": 0.9, "train3": 1.05, "train4": 9.0})
    assert [worker for worker, p in found.items() if p <= 0.05] == ["train4"]
    assert peer_p_values({"train0": 1.0, "train1": 1.1, "train2": 9.0}) == {}, "too few to tell who is the strange one"


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 4), st.integers(0, 3))
def test_an_alarm_lasts_when_enough_of_its_neighbours_are_alarms(alarms, k, more):
    """At least k of m steps that follow one another, wherever they are."""
    m = k + more
    windows = [alarms[i : i + m] for i in range(len(alarms))]
    assert lasts(alarms, k, m) == any(sum(window) >= k for window in windows)
