"""Clocks that were too far apart: stretches in which times between hosts mean nothing."""

from __future__ import annotations

import pytest

from storage.clocks import ClockGap, clock_gaps
from storage.layout import run_paths
from storage.schemas import METRICS
from storage.writer import TableWriter


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))


def make_run(run_id: str, host: str, readings: list[tuple[float | None, float | None]]) -> None:
    rows = [
        (10.0 * n, 10.0 * n, host, host, -1, "", metric, "s", value)
        for n, reading in enumerate(readings)
        for metric, value in zip(("clock_offset_s", "clock_error_s"), reading, strict=True)
    ]
    with TableWriter(run_paths(run_id).create().table("metrics"), METRICS) as writer:
        writer.append(rows)


def test_a_gap_reaches_from_the_last_good_reading_to_the_next():
    """Two readings beyond 10 ms are one stretch; one that may be within, given its error, and a missed one are not beyond."""
    good, far, farther, unsure, missed = (0.001, 0.0001), (-0.012, 0.001), (0.5, 0.001), (0.012, 0.003), (None, None)
    make_run("ra", "store", [good, far, farther, good, unsure, missed, good])
    make_run("rb", "store", [good, good])
    make_run("rc", "store", [far, good, far])
    assert clock_gaps(["ra"]) == [ClockGap("ra", "store", 0.0, 30.0, 0.5)]
    assert clock_gaps(["rb"]) == []
    assert [(gap.from_s, gap.to_s) for gap in clock_gaps(["rc"])] == [(0.0, 10.0), (10.0, 20.0)]
    assert {gap.run_id for gap in clock_gaps()} == {"ra", "rc"}


def test_a_gap_is_told_as_a_sentence():
    """From when to when, which host, how far and which way."""
    (gap,) = [ClockGap("ra", "store", 3600.0, 3630.0, -0.5)]
    assert gap.told() == (
        "ra: from 01:00:00 to 01:00:30 UTC the clock of store was 0.500 s behind: "
        "a time between it and another host means nothing"
    )
