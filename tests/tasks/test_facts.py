from datetime import timedelta
from pathlib import Path

import pytest

from diagnosis.score import Facts
from storage.layout import RunPaths
from storage.truth import load_label, load_names
from tasks.facts import clock_shift, facts_of
from tasks.seal import seal_run
from tests.synthetic_job import make_run

ROOT = {"wall_s": 1791633605.5}


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A sealed run."""
    paths = make_run(tmp_path)
    seal_run(paths)
    return paths


def told(run: RunPaths, final: dict[str, str] | None) -> tuple[Facts, dict[str, str]]:
    """The facts of a run whose error came out so, and its neutral names."""
    names = load_names(run)
    label = load_label(run)
    neutral = type(label)(**{**label.__dict__, "component": names[label.component]})
    manifest = {"topology": {"waits": [{"waiter": names["rollout1"], "awaited": names["train1"]}]}}
    return facts_of(run, neutral, names, {"final_error": final, "root": ROOT}, manifest), names


def test_facts_are_in_neutral_names_and_on_the_cases_clock(run: RunPaths) -> None:
    """Symptom and chain are told by neutral names; the fault's moment lies as far from the first line as it did in the job."""
    facts, names = told(run, {"seen_on": "rollout1", "stage": "weights_update"})
    assert facts.symptom == (names["rollout1"], "weights_update")
    assert facts.chain == (names["train1"], names["rollout1"])
    shift = clock_shift(run.logs, run.evidence)
    # 2026-10-10 12:00:05.500 in the job's logs.
    assert shift is not None and shift % timedelta(seconds=1) == timedelta(0)
    assert facts.effect is not None and (facts.effect - shift).isoformat() == "2026-10-10T12:00:05.500000"


def test_what_did_not_come_out_has_no_symptom(run: RunPaths) -> None:
    """A job that survived has no symptom and no chain."""
    facts, _ = told(run, None)
    assert (facts.symptom, facts.chain) == (None, ())


def test_a_clock_that_cannot_be_told_is_not_guessed(run: RunPaths, tmp_path: Path) -> None:
    """Evidence whose earliest line is another one than the job's gives no shift, and neither does evidence without lines."""
    (tmp_path / "e/t0").mkdir(parents=True)
    (tmp_path / "e/t0/w-0000.log").write_text("2000-01-01 00:00:00.999 INFO w-0000: later\n")
    assert clock_shift(run.logs, tmp_path / "e") is None
    assert clock_shift(run.logs, tmp_path / "none") is None
