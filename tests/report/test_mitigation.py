"""Whether a mitigation helps: over pairs of runs, with intervals that say how few they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.mitigation import CANNOT_TELL, HELPS, paired_means, paired_shares
from storage.layout import run_paths
from tasks.compare import compare_runs
from tasks.report import write_report
from tests.report.synthetic import Synthetic, worker_lost, write_run

COUNTS = st.integers(0, 30)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))


def test_the_interval_of_paired_shares_is_the_published_one():
    """Newcombe 1998: 36, 12, 2 and 0 of 50 pairs give 0.20 with [0.0569, 0.3404]."""
    lo, hi = paired_shares(36, 12, 2, 0)
    assert (lo, hi) == (pytest.approx(0.0569, abs=5e-5), pytest.approx(0.3404, abs=5e-5))


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_the_interval_of_paired_shares_holds_the_difference(both: int, only: int, never: int, neither: int):
    """It holds what was seen, lies within [-1, 1], and turns around with the pairs."""
    n = both + only + never + neither
    if not n:
        return
    lo, hi = paired_shares(both, only, never, neither)
    assert -1 - 1e-9 <= lo <= (only - never) / n + 1e-12 and (only - never) / n - 1e-12 <= hi <= 1 + 1e-9
    assert paired_shares(both, never, only, neither) == (pytest.approx(-hi), pytest.approx(-lo))


def test_two_pairs_are_too_few_for_an_interval():
    """A variance of two differences, or of differences that are all the same, is not told."""
    assert paired_means([1.0, 2.0]) is None and paired_means([1.0, 1.0, 1.0]) is None
    lo, hi = paired_means([1.0, 2.0, 3.0])
    assert lo < 2.0 < hi


def hardened(seed: int) -> str:
    """A run that survives the fault that `worker_lost` of the same seed does not."""
    return write_run(worker_lost(seed, arm="hardened", error_stage="")).run_id


def test_a_posture_that_survives_is_told_to_help():
    """Six seeds: legacy always fails in another stage, hardened never; pairs are found, and the differences leave out zero."""
    runs = [write_run(worker_lost(seed)).run_id for seed in range(6)] + [hardened(seed) for seed in range(7)]
    (found,) = compare_runs(runs).mitigations
    assert (found.scenario, found.posture, found.seeds) == ("rollout-kill", "hardened", tuple(range(6)))
    effects = {effect.measure: effect for effect in found.effects}
    survived = effects["survived"]
    assert (survived.n, survived.mean, survived.mean_reference, survived.verdict) == (6, 1.0, 0.0, HELPS)
    assert 0 < survived.lo < survived.difference == 1.0 <= survived.hi
    assert effects["steps done"].difference == 6.0 and effects["steps done"].verdict == CANNOT_TELL  # all by the same


def test_one_pair_cannot_tell_and_the_page_says_so():
    """One seed of each arm: shown, with its wide interval, and called "cannot tell"."""
    runs = [write_run(worker_lost(1)).run_id, hardened(1)]
    (found,) = compare_runs(runs).mitigations
    assert {effect.verdict for effect in found.effects} == {CANNOT_TELL}
    page = write_report(runs, "mitigation").read_text()
    assert "Whether a posture helps cannot be told from 1 pair of runs" in page and "hardened" in page
    assert "another stage than the fault in 1 of 1 legacy run; in 1 the first error" in page


def test_surviving_is_held_to_what_the_control_has_learned():
    """The final exact match of a job that survived is told beside its control's interval of the same seed."""
    control = write_run(Synthetic(scenario="rollout-kill", seed=1)).run_id
    runs = [control, write_run(worker_lost(1)).run_id, hardened(1)]
    for run, exact in zip(runs, (0.5, 0.1, 0.4), strict=True):
        paths = run_paths(run)
        rows = [(1.0, 1.0, "localhost", "controller", step, "rollout", "exact", "ratio", exact) for step in range(12)]
        write_more(paths, rows)
    (quality,) = compare_runs(runs[1:]).mitigations[0].qualities
    assert (quality.final_exact, quality.control_exact) == (pytest.approx(0.4), pytest.approx(0.5))
    assert not quality.kept
    assert quality.control_lo < 0.5 < quality.control_hi
    assert json.loads(json.dumps(compare_runs(runs[1:]).to_dict()))["mitigations"][0]["qualities"][0]["kept"] is False


def write_more(paths, rows) -> None:
    """More rows of the metrics table."""
    from storage import schemas
    from storage.writer import TableWriter

    with TableWriter(paths.table("metrics"), schemas.TABLES["metrics"], flush_s=60.0) as table:
        table.append(rows)
