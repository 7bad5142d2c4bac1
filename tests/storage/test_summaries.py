"""Summaries of runs: what SQL over the raw rows says, kept as long as the rows are the same, and never longer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import catalogue
from storage.layout import cache_dir, run_paths
from storage.manifest import RunState, end_manifest, start_manifest
from storage.reader import read_table
from storage.schemas import METRICS, SUMMARIES
from storage.writer import TableWriter, remove_segments


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))


def store(run_id: str, rows: list[tuple], writer: str = "w", *, ended: bool = True) -> None:
    paths = run_paths(run_id)
    if not paths.root.exists():
        start_manifest(paths.create(), profile="smoke", workload="grpo", posture="legacy", place="plain-host")
        if ended:
            end_manifest(paths, RunState.COMPLETED)
    with TableWriter(paths.table("metrics"), METRICS, writer=writer) as table:
        table.append([(1.0 * n, 1.0, "h", *row) for n, row in enumerate(rows)])


def told() -> dict[tuple, dict]:
    rows = catalogue.query("SELECT * FROM summaries").dicts()
    return {(row["run_id"], row["component"], row["stage"], row["metric"]): row for row in rows}


VALUES = st.none() | st.floats(-1e9, 1e9, allow_subnormal=False) | st.sampled_from([math.inf, -math.inf, 1e9 + 0.5])
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["train0", "train1"]),
        st.just(1),
        st.sampled_from(["", "train"]),
        st.just("loss"),
        st.just("ratio"),
        VALUES,
    ),
    max_size=25,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(ROWS, min_size=1, max_size=3))
def test_summaries_are_what_the_raw_rows_say(runs, tmp_path_factory):
    """Counts, mean, spread and ends of every series, and of all runs together, are those that numpy finds in the rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTLINE_HOME", str(tmp_path_factory.mktemp("home")))
        everything: dict[tuple, list[float]] = {}
        wanted = {}
        for number, rows in enumerate(runs):
            store(f"r{number}", rows)
            series: dict[tuple, list] = {}
            for row in read_table(run_paths(f"r{number}").table("metrics"), METRICS)[0].to_pylist():
                series.setdefault((f"r{number}", row["component"], row["stage"], row["metric"]), []).append(row["value"])
            for key, values in series.items():
                wanted[key] = values
                everything.setdefault((key[2], "train"), []).extend(v for v in values if v is not None and math.isfinite(v))
        for _ in range(2):
            found = told()
            assert set(found) == set(wanted)
            for key, values in wanted.items():
                finite = np.array([v for v in values if v is not None and math.isfinite(v)])
                row = found[key]
                assert (row["n"], row["missed"]) == (len(finite), values.count(None)) and row["role"] == "train"
                if len(finite):
                    assert row["mean"] == pytest.approx(finite.mean(), rel=1e-9, abs=1e-6)
                    assert row["m2"] == pytest.approx(((finite - finite.mean()) ** 2).sum(), rel=1e-6, abs=1e-3)
                    assert (row["min"], row["max"]) == (finite.min(), finite.max())
        for row in catalogue.pooled().dicts():
            sample = np.array(everything[row["stage"], row["role"]])
            assert row["n"] == len(sample) and row["mean"] == pytest.approx(sample.mean(), rel=1e-9, abs=1e-6)
            if len(sample) > 1:
                assert row["sd"] == pytest.approx(sample.std(ddof=1), rel=1e-6, abs=1e-3)


def test_a_summary_lives_as_long_as_its_rows():
    """Rows replaced, added or taken away are summed up anew; unchanged runs are not read again."""
    row = ("train0", 1, "train", "loss", "ratio")
    store("r1", [(*row, 1.0), (*row, 3.0)])
    store("r2", [(*row, 10.0)])
    key = ("r1", "train0", "train", "loss")
    assert told()[key]["mean"] == 2.0
    remove_segments(run_paths("r1").table("metrics"), "w")
    store("r1", [(*row, 7.0)])
    assert (told()[key]["mean"], told()[key]["n"]) == (7.0, 1)
    store("r1", [(*row, 9.0)], writer="x")
    assert (told()[key]["mean"], told()[key]["n"]) == (8.0, 2)
    # What lies in the way of reading r2 again is not met: its summary is kept.
    (segment,) = run_paths("r2").table("metrics").iterdir()
    segment.write_bytes(b"torn")
    assert told()["r2", "train0", "train", "loss"]["mean"] == 10.0


def test_a_running_run_is_not_remembered():
    """Its summary is right at each moment, and not kept."""
    row = ("train0", 1, "train", "loss", "ratio")
    store("r1", [(*row, 1.0)], ended=False)
    assert len(told()) == 1
    assert not (cache_dir() / "summaries").exists()


def test_a_damaged_cache_is_made_anew():
    """Torn, foreign or missing: the numbers come from the rows again."""
    row = ("train0", 1, "train", "loss", "ratio")
    store("r1", [(*row, 1.0)])
    before = told()
    (kept,) = (cache_dir() / "summaries").iterdir()
    kept.write_bytes(kept.read_bytes()[:-9])
    (cache_dir() / "summaries" / "part-evil-000000-00000000.parquet").write_bytes(b"x")
    assert told() == before
    kept.unlink(missing_ok=True)
    assert told() == before


def test_problems_are_told_with_kept_summaries_too():
    """A file that is in no summary is named each time, not only when the summary was made."""
    store("r1", [("train0", 1, "train", "loss", "ratio", 1.0)])
    (run_paths("r1").table("metrics") / "notes.txt").write_text("x")
    for _ in range(2):
        answer = catalogue.query("SELECT count(*) FROM summaries")
        assert answer.rows == [(1,)] and len(answer.problems) == 1 and "notes.txt" in answer.problems[0]


def test_what_cannot_be_selected_by_is_refused():
    """A wrong name is one sentence; no run at all is an empty answer with all its columns."""
    with pytest.raises(ValueError, match="cannot select by moon"):
        catalogue.pooled(moon="x")
    assert catalogue.pooled(metric="loss").rows == []
    assert catalogue.query("SELECT * FROM summaries").columns == tuple(SUMMARIES.names)
