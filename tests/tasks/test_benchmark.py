import gzip
import json
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnosis.sandbox import Attempt, attempt_by
from injection.scenario import is_control
from injection.sweep import sweep_cells
from storage.layout import RunPaths, runs_dir
from storage.manifest import RunState, end_manifest, start_manifest
from storage.truth import load_label, load_plan
from tasks.benchmark import build_set, run_by_case
from tasks.board import measure
from tasks.cells import DEVELOPMENT, HELD_OUT_SCENARIO, Wanted, companions, draw_cells, draw_sorts
from tasks.leaderboard import write_answers, write_page
from tasks.plan import Cell, load_scenario, plan_cell
from tasks.score import standings
from tests.synthetic_case import end_well, healthy_rows, with_metrics
from tests.synthetic_job import make_run

#: Reading scenarios is not what is tested here.
READ_ONCE = cache(load_scenario)
DECOYS = ("decoy-late-worker", "decoy-busy-neighbour")
FAULTS = ("weight-sync-link", "rollout-cpu-oom", "worker-kill", "train-oom-masked-literal", *islice(sweep_cells(), 3))
NAMES = (*FAULTS, "no-fault", *DECOYS)


@given(st.integers(4, 300), st.integers(0, 1 << 30), st.sets(st.sampled_from(NAMES[:3]), min_size=1, max_size=2))
def test_every_draw_keeps_the_rules(cases: int, seed: int, held_out: set[str]) -> None:
    """As many cells as asked for, none twice, 25-35 % without fault, none a companion, no held-out scenario in development."""
    wanted = Wanted(seed=seed, cases=cases, scenarios=NAMES, held_out=tuple(held_out))
    with patch("tasks.cells.load_scenario", READ_ONCE):
        cells, again, calm, sorts = draw_cells(wanted), draw_cells(wanted), companions(wanted), draw_sorts(wanted)
    assert cells == again
    assert len(cells) == len(set(cells)) == cases
    quiet, decoys = (sum(sort_of(cell) == sort for cell in cells) for sort in ("quiet", "decoy"))
    assert cases < 20 or (0.25 <= (quiet + decoys) / cases <= 0.35 and quiet > decoys > 0)
    taken = [cell for sort in sorts for cell in sort.cells]
    assert len(taken) == len(set(taken)) == 2 * cases and all(
        sort_of(cell) == sort.name for sort in sorts for cell in sort.cells
    )
    assert not {cell.seed for cell in taken} & {cell.seed for cell in calm}
    assert {cell.scenario for cell in cells if wanted.split(cell) == DEVELOPMENT} & held_out == set()
    assert {wanted.split(cell) for cell in cells if cell.scenario in held_out} <= {HELD_OUT_SCENARIO}


def sort_of(cell: Cell) -> str:
    """Quiet, decoy or faulty, by scenario and arm."""
    return "quiet" if is_control(cell.arm) else "decoy" if cell.scenario in DECOYS else "faulty"


def test_a_posture_never_tells_that_there_is_a_fault() -> None:
    """Whatever posture a faulty cell has, the same scenario has quiet ones in it, and healthy runs are of each job there is."""
    wanted = Wanted(seed=1, cases=300, scenarios=NAMES)
    quiet, _, faulty = draw_sorts(wanted)

    def postures(cells: Iterable[Cell]) -> set[tuple[str, str]]:
        return {(cell.scenario, READ_ONCE(cell.scenario).posture_of(cell.arm)) for cell in cells}

    assert postures(faulty.cells) <= postures(quiet.cells)
    assert {plan_cell(cell)["posture"] for cell in companions(wanted)} == {posture for _, posture in postures(quiet.cells)}


def test_arms_that_were_not_asked_for_are_not_drawn() -> None:
    """Of the arms named alone, and their controls, with no companions of other postures."""
    wanted = Wanted(seed=1, cases=40, scenarios=NAMES, arms=("legacy",))
    drawn = {cell.arm for sort in draw_sorts(wanted) for cell in sort.cells}
    assert drawn == {"control", "legacy"} == {cell.arm for cell in companions(wanted)} | {"legacy"}


def test_the_name_of_a_cell_of_the_sweep_decides_its_split() -> None:
    """A held-out cell is held out at every seed; another follows its seed."""
    cells = sweep_cells().values()
    wanted = Wanted(seed=1, cases=10, scenarios=tuple(sweep_cells()))
    for seed, split in ((503, DEVELOPMENT), (505, "held-out-seed")):
        told = {cell.name: wanted.split(Cell(cell.name, "legacy", seed, "smoke")) for cell in cells}
        assert told == {cell.name: split if cell.split == "development" else "held-out-sweep" for cell in cells}


def test_nothing_to_draw_is_refused() -> None:
    """A set of healthy runs and decoys alone is none."""
    with pytest.raises(ValueError, match="a scenario with a fault"):
        draw_cells(Wanted(seed=1, cases=10, scenarios=("no-fault", *DECOYS)))


def stored(arm: str, seed: int, valid: bool = True, effect: bool = True) -> RunPaths:
    """A finished run of weight-sync-link in this home, with logs and metrics; where a fault has an effect, the job fails."""
    paths = with_metrics(make_run(runs_dir(), "noop" if is_control(arm) else "network-bandwidth"), healthy_rows(seed))
    end_well(paths, seed)
    if effect and not is_control(arm):
        failed = {"what": "event", "component": "controller", "step": 0, "stage": "train", "phase": "error", "wall_s": 9.0}
        with paths.history.open("a") as history:
            history.write(json.dumps({**failed, "mono_s": 9.0, "attrs": {"error": "it broke"}}) + "\n")
    paths.plan.write_text(json.dumps(load_plan(paths) | {"arm": arm, "profile": "sealed"}))
    if not valid:
        paths.history.write_text("")
    paths.table("logs").mkdir()
    start_manifest(paths, profile="sealed", workload="grpo", posture="legacy", place="plain-host")
    end_manifest(paths, RunState.COMPLETED)
    return paths


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wanted:
    """A set of ten cases, of which this home has the runs of nine; one of them is invalid, the fault of one did nothing."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))
    wanted = Wanted(seed=3, cases=10, scenarios=("weight-sync-link",), held_out_from=506)
    for cell in companions(wanted):
        stored(cell.arm, cell.seed)
    cells = draw_cells(wanted)[:9]
    idle = next(cell for cell in cells[1:] if not is_control(cell.arm))
    for cell in cells:
        stored(cell.arm, cell.seed, valid=cell != cells[0], effect=cell != idle)
    return wanted


def test_a_set_of_stored_runs(wanted: Wanted, tmp_path: Path) -> None:
    """Valid runs that mattered become cases with three companions each, others are told; a second build makes nothing anew."""
    out = tmp_path / "set"
    index = build_set(wanted, out, lambda _: None, run_missing=False)
    assert len(index["cases"]) == 7
    assert [missing["reason"] for missing in index["left_out"]] == ["its fault did nothing to the job"]
    assert "1 because its fault did nothing to the job" in (out / "DATASHEET.md").read_text()
    runs = run_by_case()
    quiet = [not load_label(runs[case["case_id"]]).fault for case in index["cases"]]
    assert 0 < sum(quiet) < 7
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
    """Measuring scores the split's cases, and the log tells each time that it was opened; no split means all there are."""
    out = tmp_path / "set"
    index = build_set(wanted, out, lambda _: None, run_missing=False)
    count = sum(case["split"] == "held-out-seed" for case in index["cases"])
    (out / "openings.jsonl").write_text('{"split": "held-out-seed"}\n{"split": "development"}\n')
    told: list[str] = []
    scores = measure(out, ["held-out-seed"], ["random"], ["T0"], told.append)
    [row] = standings(scores.values())
    assert (row["diagnoser"], row["tier"], row["n"]) == ("random", "T0", count) and count > 0
    assert told[0] == "split held-out-seed: opened 2 times so far, this one included"
    assert len((out / "openings.jsonl").read_text().splitlines()) == 3
    assert len(measure(out, [], ["random"], ["T0"], told.append)) == len(index["cases"])
    assert len((out / "openings.jsonl").read_text().splitlines()) == 5
    with pytest.raises(ValueError, match="no case in split 'all'; there are: development, held-out-seed"):
        measure(out, ["all"], None, None, told.append)


def test_a_stored_diagnosis_is_not_made_again(wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look starts no diagnoser and finds the same; other code is asked anew, and its answer counts."""
    out = tmp_path / "set"
    build_set(wanted, out, lambda _: None, run_missing=False)
    first = measure(out, [], ["last-error"], ["T0", "T1"], lambda _: None, at_once=2)
    asked: list[str] = []

    def watched(name: str, evidence: Path, tier: str) -> Attempt:
        asked.append(tier)
        return attempt_by(name, evidence, tier)

    monkeypatch.setattr("tasks.diagnose.attempt_by", watched)
    again = measure(out, [], ["last-error"], ["T0", "T1"], lambda _: None)
    assert asked == [] and [score["verdicts"] for score in again.values()] == [score["verdicts"] for score in first.values()]
    monkeypatch.setattr("tasks.diagnose.code_sha256", lambda _: "other")
    anew = measure(out, [], ["last-error"], ["T1"], lambda _: None)
    assert asked == ["T1"] * len(first)
    assert {verdict["after_score"] for score in anew.values() for verdict in score["verdicts"]} == {True}


def test_the_page_and_the_raw_answers_tell_of_every_case(wanted: Wanted, tmp_path: Path) -> None:
    """Counts of the page add up to the set, the board has a row each diagnoser and tier, a line of answers each case."""
    out, page, answers = tmp_path / "set", tmp_path / "board.md", tmp_path / "answers.jsonl.gz"
    index = build_set(wanted, out, lambda _: None, run_missing=False)
    names = ["causal", "last-error", "random"]
    scores = measure(out, [], names, ["T0"], lambda _: None, at_once=2)
    write_page(page, scores)
    write_answers(answers, scores.values())
    sections = dict(part.split("\n", 1) for part in page.read_text().split("## ")[1:])
    rows = {title: [line.split(" | ") for line in text.strip().splitlines()[2:]] for title, text in sections.items()}
    assert sum(int(row[3]) for row in rows["Cases"]) == len(index["cases"])
    assert sorted(row[0].strip("| ") for row in rows["Board"]) == names
    assert sum(int(row[2]) for row in rows["By scenario"]) == len(index["cases"])
    assert len(rows["By split"]) == len(names) and len(rows["Paired"]) == len(names) - 1
    lines = [json.loads(line) for line in gzip.decompress(answers.read_bytes()).splitlines()]
    assert sorted(line["case_id"] for line in lines) == [case["case_id"] for case in index["cases"]]
    assert all(sorted(told["diagnoser"] for told in line["answers"]) == names for line in lines)
