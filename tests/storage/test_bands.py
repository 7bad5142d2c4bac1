"""Bands: the range of healthy values, by the book."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from storage.bands import band, baseline_bands, prediction_factor
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
    values = np.random.default_rng(n).normal(10.0, 3.0, size=(20_000, n + 1))
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
