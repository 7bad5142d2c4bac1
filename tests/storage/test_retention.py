"""Retention: what is kept gets small, what is past keeping goes, and what runs is left alone."""

from __future__ import annotations

import json

import pytest

from storage import catalogue
from storage.layout import run_paths, runs_dir
from storage.manifest import RunState, end_manifest, start_manifest
from storage.retention import collect_garbage, past_keeping
from storage.schemas import METRICS
from storage.writer import TableWriter

DAY_S = 86400.0


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))


def make_run(run_id: str, started_s: float, *, running: bool = False) -> None:
    paths = run_paths(run_id).create()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    if not running:
        end_manifest(paths, RunState.COMPLETED)
    manifest = json.loads(paths.manifest.read_text())
    paths.manifest.write_text(json.dumps({**manifest, "started_s": started_s}))
    for name in ("a", "b"):
        for number in range(3):
            writer = TableWriter(paths.table("metrics"), METRICS, writer=name)
            writer.append({"metric": ["loss"] * 5, "value": [float(number)] * 5})
            writer.close()


def test_the_newest_or_the_last_days_are_kept():
    """By number or by days; a running run is never past keeping, a text that is neither is refused."""
    now_s = 100 * DAY_S
    for number in range(4):
        make_run(f"r{number}", now_s - number * DAY_S, running=number == 3)
    assert past_keeping("2") == ["r2"]
    assert past_keeping("1d", now_s=now_s) == ["r2"]
    assert past_keeping("0") == ["r0", "r1", "r2"]
    for text in ("", "-1", "d", "1.5d", "3 d", "٣"):
        with pytest.raises(ValueError, match="a number of runs"):
            past_keeping(text)


def test_what_is_kept_gets_small_and_answers_the_same():
    """Compaction leaves one segment a writer and every number; what is not kept is gone whole; leftovers go too."""
    for number in range(3):
        make_run(f"r{number}", number * DAY_S)
    make_run("running", 9 * DAY_S, running=True)
    (runs_dir() / ".gone-r9" / "x").mkdir(parents=True)
    asked = "SELECT run_id, count(*), sum(value) FROM metrics WHERE run_id <> 'r0' GROUP BY ALL ORDER BY ALL"
    before = catalogue.query(asked).rows
    dry = collect_garbage("3", dry_run=True)
    assert [(one.run_id, one.done) for one in dry] == [(f"r{n}", "removed" if n == 0 else "compacted") for n in range(3)] + [
        ("running", "running")
    ]
    assert len(list(runs_dir().iterdir())) == 5
    done = collect_garbage("3")
    assert [(one.run_id, one.done) for one in done] == [(one.run_id, one.done) for one in dry]
    assert sorted(path.name for path in runs_dir().iterdir()) == ["r1", "r2", "running"]
    assert catalogue.query(asked).rows == before
    assert len(list(run_paths("r1").table("metrics").iterdir())) == 2
    assert len(list(run_paths("running").table("metrics").iterdir())) == 6
    assert all(one.bytes_after < one.bytes_before for one in done if one.done == "compacted")


def test_damage_is_named_and_stays():
    """A torn segment is not swept away: it is told, and the rest is merged."""
    make_run("r1", DAY_S)
    victim = sorted(run_paths("r1").table("metrics").iterdir())[0]
    victim.write_bytes(b"torn")
    (one,) = collect_garbage()
    assert one.done == "compacted" and len(one.problems) == 1 and victim.name in one.problems[0]
    assert victim.exists() and catalogue.query("SELECT count(*) FROM metrics").rows == [(25,)]
