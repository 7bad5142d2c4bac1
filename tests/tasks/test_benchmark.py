import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.layout import RunPaths, runs_dir
from storage.manifest import RunState, end_manifest, start_manifest
from storage.truth import load_label, load_plan
from tasks.benchmark import DEVELOPMENT, HELD_OUT_SCENARIO, Wanted, build_set, companions, draw_cells, run_by_case
from tasks.board import measure
from tasks.plan import load_scenario
from tests.synthetic_case import end_well, healthy_rows, with_metrics
from tests.synthetic_job import make_run

#: Reading scenarios is not what is tested here.
READ_ONCE = cache(load_scenario)
NAMES = ("weight-sync-link", "rollout-cpu-oom", "worker-kill", "no-fault", "train-oom-masked-literal")


@given(st.integers(4, 300), st.integers(0, 1 << 30), st.sets(st.sampled_from(NAMES[:3]), min_size=1, max_size=2))
def test_every_draw_keeps_the_rules(cases: int, seed: int, held_out: set[str]) -> None:
    """As many cells as asked for, none twice, 25-35 % quiet, none a companion, and no held-out scenario in development."""
    wanted = Wanted(seed=seed, cases=cases, scenarios=NAMES, held_out=tuple(held_out))
    with patch("tasks.benchmark.load_scenario", READ_ONCE):
        cells, again, calm = draw_cells(wanted), draw_cells(wanted), companions(wanted)
    assert cells == again
    assert len(cells) == len(set(cells)) == cases
    assert cases < 20 or 0.25 <= sum(cell.arm == "control" for cell in cells) / cases <= 0.35
    assert not {cell.seed for cell in cells} & {cell.seed for cell in calm}
    assert {cell.scenario for cell in cells if wanted.split(cell) == DEVELOPMENT} & held_out == set()
    told = {(cell.scenario, READ_ONCE(cell.scenario).posture_of(cell.arm)): cell.arm for cell in cells}
    assert set(told) <= {(name, READ_ONCE(name).posture) for name in NAMES}, "these scenarios have no other control arm"
    assert {wanted.split(cell) for cell in cells if cell.scenario in held_out} <= {HELD_OUT_SCENARIO}


def test_nothing_to_draw_is_refused() -> None:
    """A set of healthy runs alone, or of arms in a posture that has no control, is none."""
    for names in (("no-fault",), ("train-oom-masked-literal",)):
        with pytest.raises(ValueError, match="a faulty one in the same posture"):
            draw_cells(Wanted(seed=1, cases=10, scenarios=names))


def stored(arm: str, seed: int, valid: bool = True) -> RunPaths:
    """A finished run of weight-sync-link in this home, with logs and metrics."""
    paths = with_metrics(make_run(runs_dir(), "noop" if arm == "control" else "network-bandwidth"), healthy_rows(seed))
    end_well(paths, seed)
    paths.plan.write_text(json.dumps(load_plan(paths) | {"arm": arm, "profile": "smoke"}))
    if not valid:
        paths.history.write_text("")
    paths.table("logs").mkdir()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    end_manifest(paths, RunState.COMPLETED)
    return paths


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wanted:
    """A set of ten cases, of which this home has the runs of nine, one of them invalid."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))
    wanted = Wanted(seed=3, cases=10, scenarios=("weight-sync-link",), held_out_from=509)
    for cell in companions(wanted):
        stored(cell.arm, cell.seed)
    for number, cell in enumerate(draw_cells(wanted)[:9]):
        stored(cell.arm, cell.seed, valid=number > 0)
    return wanted


def test_a_set_of_stored_runs(wanted: Wanted, tmp_path: Path) -> None:
    """Valid runs become cases with three companions each, the others are named, a second build makes nothing anew."""
    out = tmp_path / "set"
    index = build_set(wanted, out, lambda _: None, run_missing=False)
    assert len(index["cases"]) == 8
    assert Counter(missing["reason"] for missing in index["left_out"]) == {"it has no valid run": 2}
    runs = run_by_case()
    quiet = [not load_label(runs[case["case_id"]]).fault for case in index["cases"]]
    assert 0 < sum(quiet) < 8
    before = {path: path.stat().st_mtime_ns for path in (out / "cases").rglob("*")}
    assert build_set(wanted, out, lambda _: None, run_missing=False) == index
    assert {path: path.stat().st_mtime_ns for path in (out / "cases").rglob("*")} == before
    told = "".join(path.read_text() for path in out.rglob("*") if path.is_file() and path.name != "LICENSE")
    assert "weight-sync-link" not in told and not any(paths.run_id in told for paths in runs.values())


def test_whoever_has_the_set_alone_can_read_it(wanted: Wanted, tmp_path: Path) -> None:
    """The ten lines that come with it read every case of a split by the bare interpreter."""
    out = tmp_path / "set"
    index = build_set(wanted, out, lambda _: None, run_missing=False)
    program = "import loader; print(sum(len(files) == len(m['tiers']['T2']) for m, files in loader.cases('T2', 'development')))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '{out}'); {program}"],
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.stdout.strip() == str(sum(case["split"] == "development" for case in index["cases"])), done.stderr
    assert len((out / "loader.py").read_text().splitlines()) <= 12


def test_opening_a_split_is_written_down(wanted: Wanted, tmp_path: Path) -> None:
    """Measuring gives a row a diagnoser and tier over the split's cases, and the log tells each time that it was opened."""
    out = tmp_path / "set"
    index = build_set(wanted, out, lambda _: None, run_missing=False)
    count = sum(case["split"] == "held-out-seed" for case in index["cases"])
    (out / "openings.jsonl").write_text('{"split": "held-out-seed"}\n{"split": "development"}\n')
    told: list[str] = []
    [row] = measure(out, "held-out-seed", ["random"], ["T0"], told.append)
    assert (row["diagnoser"], row["tier"], row["n"]) == ("random", "T0", count) and count > 0
    assert told[0] == "split held-out-seed: opened 2 times so far, this one included"
    assert len((out / "openings.jsonl").read_text().splitlines()) == 3
    with pytest.raises(ValueError, match="no case in split 'all'"):
        measure(out, "all", None, None, told.append)
