"""Bands: the range of healthy values, by the book."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from storage.bands import band, baseline_bands
from storage.intervals import INTERVALS, log_t_prediction, prediction_factor
from storage.layout import run_paths
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
