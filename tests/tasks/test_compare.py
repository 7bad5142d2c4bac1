"""Runs against healthy runs, and arms against each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from report.movement import CANNOT_TELL, MOVED
from tasks.compare import compare_runs
from tests.report.synthetic import Synthetic, weight_sync, worker_lost, write_run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))


def healthy(count: int) -> list[str]:
    return [write_run(Synthetic(seed=seed)).run_id for seed in range(1, count + 1)]


def test_slow_stage_moves_and_the_others_do_not():
    """A weight update thirty times too slow moved by about thirty, from fifty healthy steps; where the error was is said."""
    baselines = healthy(5)
    fault = write_run(weight_sync())
    (run,) = compare_runs([fault.run_id]).runs
    assert run.baselines == tuple(sorted(baselines)) and run.fault_step == 6
    (moved,) = run.moved
    assert moved.metric == "timeperf/weights_update_step" and moved.n == 50 and moved.ratio == pytest.approx(30, rel=0.2)
    assert (
        "fault in weights_update on train1 at step 6; first error in weights_update on rollout0 at step 6" in run.root_to_error
    )
    assert ("train", "timeperf/train_step", "controller") in run.absent


def test_sampler_readings_are_compared_by_stage():
    """What a process used is compared within its stage: a longer rollout at the same load moves only the time."""
    healthy(5)
    spec = worker_lost(error_stage="", slow={"rollout": 5.0})
    (run,) = compare_runs([write_run(spec).run_id]).runs
    moved = {(one.metric, one.stage) for one in run.moved}
    assert ("timeperf/rollout_step", "rollout") in moved and ("samples_per_second", "rollout") in moved
    assert ("cpu_ratio", "rollout") not in moved and run.tested > 50


def test_healthy_run_against_the_others_is_a_false_alarm_rate():
    """A healthy run is held against the other healthy runs, never against itself, and next to nothing moves."""
    runs = healthy(5)
    comparison = compare_runs(runs)
    assert all(run.run_id not in run.baselines and len(run.baselines) == 4 for run in comparison.runs)
    assert sum(len(run.moved) for run in comparison.runs) <= 0.01 * sum(run.tested for run in comparison.runs)


def test_arm_is_held_against_its_own_control():
    """A legacy run is paired with the control of its scenario and seed; where it died at once the difference cannot be told."""
    control = write_run(Synthetic(scenario="weight-sync-link", seed=3))
    write_run(Synthetic(scenario="weight-sync-link", seed=4))
    fault = write_run(weight_sync(3))
    (pair,) = compare_runs([fault.run_id]).pairs
    assert pair.reference_id == control.run_id and {row.verdict for row in pair.rows} == {CANNOT_TELL}
    slow = write_run(weight_sync(4, error_stage="", slow={"train": 3.0}))
    (pair,) = compare_runs([slow.run_id]).pairs
    moved = {row.metric: row for row in pair.rows if row.verdict == MOVED}
    assert moved["timeperf/train_step"].ratio == pytest.approx(3, rel=0.1) and moved["timeperf/train_step"].n == 6


def test_without_healthy_runs_it_cannot_tell_and_says_so():
    """No comparable healthy run: nothing is called moved, and the gap is named."""
    fault = write_run(weight_sync())
    write_run(Synthetic(steps=20))
    comparison = compare_runs([fault.run_id])
    assert comparison.runs[0].tested == 0 and comparison.baselines == ()
    assert any("no healthy band" in gap for gap in comparison.gaps)


def test_few_healthy_runs_are_named():
    """Two healthy runs are used, and the page is told that five are wanted."""
    healthy(2)
    comparison = compare_runs([write_run(weight_sync()).run_id])
    assert comparison.runs[0].moved and any("bands from 2 healthy runs" in gap for gap in comparison.gaps)


def test_default_is_every_run_with_a_fault():
    """Without ids all fault runs of this home are compared; damaged runs do not stop it."""
    healthy(3)
    faults = {write_run(weight_sync()).run_id, write_run(worker_lost()).run_id}
    broken = write_run(worker_lost(9))
    broken.plan.write_text("{")
    assert {run.run_id for run in compare_runs().runs} == faults


def test_torn_table_is_a_gap_and_the_rest_is_compared():
    """A torn segment is named; the comparison goes on with what is readable."""
    healthy(3)
    fault = write_run(weight_sync())
    segment = next(fault.table("metrics").glob("part-*"))
    segment.write_bytes(segment.read_bytes()[:-7])
    comparison = compare_runs([fault.run_id])
    assert comparison.runs[0].tested == 0 and any("torn" in gap for gap in comparison.gaps)


def test_given_baselines_are_used_and_unknown_ones_refused():
    """Named baselines are taken as they are; an unknown run is one sentence."""
    chosen = healthy(4)[:3]
    fault = write_run(weight_sync())
    assert compare_runs([fault.run_id], chosen).baselines == tuple(sorted(chosen))
    with pytest.raises(ValueError, match="unknown run: r404"):
        compare_runs([fault.run_id], ["r404"])
    with pytest.raises(ValueError, match="unknown run: r404"):
        compare_runs(["r404"])


def test_empty_home_is_a_comparison_of_nothing():
    """Nothing to compare is said, not raised; a comparison is plain JSON."""
    assert compare_runs().gaps == ["no run to compare"]
    healthy(2)
    data = compare_runs([write_run(weight_sync()).run_id]).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False))["runs"][0]["stood_out"]
