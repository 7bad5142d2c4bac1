"""Make a set of sealed cases that anyone can be measured on: drawn cells, runs, cases; in that order, and resumable at each.

The home in which it is made is its vault: the runs with their truth stay there. What is published is a folder of its own:
cases, an index with splits, a datasheet, a licence and a loader. Healthy runs that come with cases are never cases themselves,
or a diagnoser that kept what it saw could tell a no-fault case by finding it again.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnosis.vocabulary import TIERS
from injection.sweep import HELD_OUT, split_of, sweep_cells
from storage import truth
from storage.layout import RunPaths, runs_dir
from storage.manifest import Manifest, load_manifest
from storage.seal import sha256_file, verify_seal
from tasks.collect import collect
from tasks.datasheet import LOADER, datasheet
from tasks.experiment import attempt
from tasks.healthy import MOST
from tasks.outcome import outcome_of
from tasks.plan import Cell, load_scenario, plan_cell
from tasks.seal import seal_run

#: The share of cases in which nothing was done: between 25 and 35 %.
QUIET_SHARE = 0.3
CONTROL = "control"
DEVELOPMENT, HELD_OUT_SEED, HELD_OUT_SCENARIO = "development", "held-out-seed", "held-out-scenario"
HELD_OUT_SWEEP = "held-out-sweep"
#: How often a cell is run when its runs come out invalid.
TRIES = 2

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """A set as it was asked for. Cases with seeds from ``held_out_from`` on, or of ``held_out`` scenarios, are held out.

    The first seeds are the companions'; ``seeds`` more (or as many as it takes) are drawn from for cases.
    """

    seed: int
    cases: int
    scenarios: tuple[str, ...]
    profile: str = "smoke"
    first_seed: int = 500
    seeds: int = 7
    held_out_from: int = 505
    held_out: tuple[str, ...] = ()

    def split(self, cell: Cell) -> str:
        """The split of a case. Of the sweep the cell's name decides, whatever was asked."""
        if cell.scenario in self.held_out:
            return HELD_OUT_SCENARIO
        if cell.scenario in sweep_cells() and split_of(cell.scenario) == HELD_OUT:
            return HELD_OUT_SWEEP
        return HELD_OUT_SEED if cell.seed >= self.held_out_from else DEVELOPMENT


def draw_cells(wanted: Wanted) -> list[Cell]:
    """The cells of the cases, drawn by the set's seed: `QUIET_SHARE` of them without a fault, scenarios and arms in turn.

    The same cell never comes twice, and none has a seed of the companions. An arm whose posture has no control arm in its
    scenario is not drawn: a job in that posture would always be a faulty one, and a posture shows (it may have links of its
    own). Raises ValueError where nothing can be drawn.
    """
    draw = random.Random(wanted.seed)  # noqa: S311 - a published draw, no secret
    quiet: list[tuple[str, str]] = []
    faulty: list[tuple[str, str]] = []
    for scenario in map(load_scenario, wanted.scenarios):
        calm = [arm for arm in scenario.arms if arm.endswith(CONTROL)]
        postures = {scenario.posture_of(arm) for arm in calm}
        quiet += [(scenario.name, arm) for arm in calm]
        faulty += [(scenario.name, arm) for arm in scenario.arms if arm not in calm and scenario.posture_of(arm) in postures]
    if not quiet or not faulty:
        raise ValueError("a set needs scenarios with a control arm and with a faulty one in the same posture")
    count = round(wanted.cases * QUIET_SHARE)
    cells = _in_turn(quiet, count, wanted, draw) + _in_turn(faulty, wanted.cases - count, wanted, draw)
    draw.shuffle(cells)
    return cells


def companions(wanted: Wanted) -> list[Cell]:
    """The healthy runs that come with the cases: control runs of each scenario's job, at seeds of their own."""
    calm = [(one.name, arm) for one in map(load_scenario, wanted.scenarios) for arm in one.arms if arm.endswith(CONTROL)]
    seeds = range(wanted.first_seed, wanted.first_seed + MOST)
    return [Cell(*pair, seed, wanted.profile) for pair in calm for seed in seeds]


def _in_turn(pairs: list[tuple[str, str]], count: int, wanted: Wanted, draw: random.Random) -> list[Cell]:
    order = draw.sample(pairs, len(pairs))
    first, span = wanted.first_seed + MOST, max(wanted.seeds, -(-count // len(pairs)))
    seeds = draw.sample(range(first, first + span), span)
    return [Cell(*order[n % len(order)], seeds[n // len(order)], wanted.profile) for n in range(count)]


def build_set(wanted: Wanted, out: Path, progress: Progress, *, run_missing: bool) -> dict[str, Any]:
    """Make what is missing of the set and write it to ``out``; returns the index with what was ``left_out``, and why.

    Runs that lie in this home already are taken as they are; without ``run_missing`` there will be no others.
    """
    known = _known_runs()
    calm = [_run_of(cell, known, run_missing, progress) for cell in companions(wanted)]
    beside = [paths for paths in calm if paths is not None]
    entries, left_out = [], []
    for cell in draw_cells(wanted):
        paths = _run_of(cell, known, run_missing, progress)
        problem = "it has no valid run" if paths is None else _sealed(paths, beside)
        if paths is None or problem:
            left_out.append({"cell": cell.name, "reason": problem})
            continue
        entries.append(_publish(paths, out, wanted.split(cell)))
        progress(f"case {len(entries)}: {entries[-1]['case_id']}")
    index = {"schema_version": 1, "tiers": list(TIERS), "cases": sorted(entries, key=lambda entry: str(entry["case_id"]))}
    _write_beside(out, index, wanted)
    return {**index, "left_out": left_out}


def run_by_case() -> dict[str, RunPaths]:
    """The sealed runs of this home by their case's id."""
    sealed = (RunPaths(root) for root in sorted(runs_dir().iterdir()) if (root / "evidence/manifest.json").exists())
    return {json.loads((paths.evidence / "manifest.json").read_bytes())["case_id"]: paths for paths in sealed}


def _known_runs() -> dict[Cell, RunPaths]:
    """The finished, valid runs of this home by what was asked of them."""
    found = {}
    for root in sorted(runs_dir().iterdir()):
        paths = RunPaths(root)
        try:
            plan = truth.load_plan(paths)
        except (OSError, ValueError):
            continue
        if paths.table("logs").exists() and outcome_of(paths)["valid"]:
            found[Cell(plan["scenario"], plan["arm"], plan["seed"], plan["profile"])] = paths
    return found


def _run_of(cell: Cell, known: dict[Cell, RunPaths], run_missing: bool, progress: Progress) -> RunPaths | None:
    for _ in range(TRIES if run_missing and cell not in known else 0):
        progress(f"run {cell.name}")
        paths = attempt(plan_cell(cell), progress, wait_s=3600.0)
        collect(paths)
        if outcome_of(paths)["valid"]:
            known[cell] = paths
            break
    return known.get(cell)


def _sealed(paths: RunPaths, beside: Sequence[RunPaths]) -> str:
    """Seal the run with the companions of its job, unless it is sealed; what is wrong with it as a case, or an empty text."""
    if not paths.evidence.exists():
        try:
            seal_run(paths, beside)
        except ValueError as error:
            return str(error)
    manifest = json.loads((paths.evidence / "manifest.json").read_bytes())
    healthy = {path.split("/")[2] for path in manifest["files"] if path.startswith("t2/healthy/")}
    if len(healthy) != MOST:
        return f"it comes with {len(healthy)} healthy runs instead of {MOST}"
    return "; ".join(verify_seal(paths))


def _publish(paths: RunPaths, out: Path, split: str) -> dict[str, Any]:
    """Copy the sealed case, whole, under its public name."""
    case_id = json.loads((paths.evidence / "manifest.json").read_bytes())["case_id"]
    target = out / "cases" / case_id
    if not target.exists():
        copying = target.with_name(f".{case_id}")
        shutil.rmtree(copying, ignore_errors=True)
        shutil.copytree(paths.evidence, copying)
        copying.rename(target)
    return {"case_id": case_id, "split": split, "manifest_sha256": sha256_file(target / "manifest.json")}


def _write_beside(out: Path, index: dict[str, Any], wanted: Wanted) -> None:
    manifests = [json.loads((out / "cases" / case["case_id"] / "manifest.json").read_bytes()) for case in index["cases"]]
    versions = _versions(run_by_case()[case["case_id"]] for case in index["cases"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    (out / "DATASHEET.md").write_text(datasheet(index, manifests, versions, wanted.seed, wanted.profile, QUIET_SHARE))
    (out / "loader.py").write_text(LOADER)
    shutil.copyfile(Path(__file__).resolve().parents[1] / "LICENSE", out / "LICENSE")


def _versions(runs: Iterable[RunPaths]) -> Counter[str]:
    manifests: list[Manifest] = [load_manifest(paths) for paths in runs]
    return Counter(manifest.code_version for manifest in manifests)
