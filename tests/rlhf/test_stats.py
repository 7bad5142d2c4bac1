"""Application metrics as lines."""

import json
import logging

import pytest

from rlhf.stats import StatsTracker, unit_of


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_stage_that_fails_still_has_a_duration(tmp_path):
    """The timing is written whether the block ends or raises, with the tracker's step."""
    path = tmp_path / "controller.jsonl"
    with StatsTracker(path, "controller") as stats:
        stats.step = 4
        with pytest.raises(OSError), stats.record_timing("rollout_step", "rollout"):
            raise OSError
        [line] = lines(path)  # at once, while the file is open: it is made to be followed
    assert (line["metric"], line["unit"], line["step"], line["stage"]) == ("timeperf/rollout_step", "s", 4, "rollout")
    assert line["value"] >= 0
    assert set(line) == {"wall_s", "mono_s", "step", "stage", "metric", "unit", "value"}


def test_timings_nest(tmp_path):
    """An outer timing is written after, and is not shorter than, the inner one."""
    path = tmp_path / "c.jsonl"
    with StatsTracker(path, "c") as stats, stats.record_timing("e2e"), stats.record_timing("train_step"):
        pass
    inner, outer = lines(path)
    assert (inner["metric"], outer["metric"]) == ("timeperf/train_step", "timeperf/e2e")
    assert outer["value"] >= inner["value"]


def test_figures_that_are_not_finite_are_dropped_with_a_warning(tmp_path, caplog):
    """A loss that is not a number leaves a warning and no line; its neighbours stay."""
    path = tmp_path / "train0.jsonl"
    with StatsTracker(path, "train0") as stats, caplog.at_level(logging.WARNING):
        stats.scalar("train", 3, loss=float("nan"), kl=0.25, samples=64)
    assert [(line["metric"], line["value"], line["unit"]) for line in lines(path)] == [
        ("kl", 0.25, "ratio"),
        ("samples", 64.0, "count"),
    ]
    assert "loss of step 3 is nan" in caplog.text


def test_every_metric_has_a_unit_and_one_without_is_refused():
    """A unit follows from the name; a name without one never becomes a column of bare numbers."""
    assert [unit_of(name) for name in ("samples_per_s", "upload_bytes_per_s", "rpc_latency_s", "upload_bytes", "reward")] == [
        "samples/s",
        "bytes/s",
        "s",
        "bytes",
        "ratio",
    ]
    with pytest.raises(ValueError, match="'speed' tells no unit"):
        unit_of("speed")
