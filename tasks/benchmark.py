"""Make a set of sealed cases that anyone can be measured on: drawn cells, runs, cases; in that order, and resumable at each.

The home in which it is made is its vault: the runs with their truth stay there. What is published is a folder of its own:
cases, an index with splits, a datasheet, a licence and a loader. Healthy runs that come with cases are never cases themselves,
or a diagnoser that kept what it saw could tell a no-fault case by finding it again. Nor is a run whose fault did nothing to the
job, or one in which something else went wrong: those are left out, and others of their sort taken.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagnosis.vocabulary import TIERS
from report.case import Case
from report.impact import SILENT, SLOWED, impact
from storage import truth
from storage.layout import RunPaths, runs_dir
from storage.manifest import Manifest, load_manifest
from storage.seal import sha256_file, verify_seal
from tasks.cells import DECOY, FAULTY, Wanted, companions, draw_sorts, in_order
from tasks.collect import collect
from tasks.datasheet import LOADER, datasheet
from tasks.experiment import attempt
from tasks.healthy import MOST, healthy_runs
from tasks.outcome import open_case, outcome_of
from tasks.plan import Cell, plan_cell
from tasks.seal import seal_run
from tasks.waiting import LabError

#: How often a cell is run when its runs come out invalid.
TRIES = 2
NO_RUN = "it has no valid run"
NO_EFFECT = "its fault did nothing to the job"
#: What a run of each sort may have come to.
FITS = {FAULTY: {"failed", "degraded", *SILENT}, DECOY: {"none", SLOWED}}
QUIET_FITS = {"none"}

Progress = Callable[[str], None]


@dataclass
class _Build:
    """A set in the making: ``known`` are the finished, valid runs of this home, ``beside`` those that come with cases."""

    wanted: Wanted
    out: Path
    progress: Progress
    run_missing: bool
    known: dict[Cell, RunPaths]
    beside: list[RunPaths] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def run_of(self, cell: Cell) -> RunPaths | None:
        """Its valid run, made now if need be and allowed."""
        for _ in range(TRIES if self.run_missing and cell not in self.known else 0):
            self.progress(f"run {cell.name}")
            try:
                paths = attempt(plan_cell(cell), self.progress, wait_s=3600.0)
            except LabError as error:  # one run that cannot be had ends no set
                self.progress(f"failed: {error}")
                continue
            collect(paths)
            if outcome_of(paths)["valid"]:
                self.known[cell] = paths
                break
        return self.known.get(cell)

    def case_of(self, cell: Cell, sort: str) -> dict[str, Any] | None:
        """The published case of a cell; None where its run is none, and then why is kept."""
        paths = self.run_of(cell)
        reason = NO_RUN if paths is None else _unfit(paths, sort, self.beside) or _sealed(paths, self.beside)
        if paths is None or reason:
            self.left_out.append({"cell": cell.name, "reason": reason})
            return None
        return _publish(paths, self.out, self.wanted.split(cell))


def build_set(wanted: Wanted, out: Path, progress: Progress, *, run_missing: bool) -> dict[str, Any]:
    """Make what is missing of the set and write it to ``out``; returns the index with what was ``left_out``, and why.

    Runs that lie in this home already are taken as they are; without ``run_missing`` there will be no others.
    """
    build = _Build(wanted, out, progress, run_missing, _known_runs())
    build.beside = [paths for cell in companions(wanted) if (paths := build.run_of(cell)) is not None]
    sorts = draw_sorts(wanted)
    waiting = {sort.name: (cell for cell in sort.cells if run_missing or cell in build.known) for sort in sorts}
    entries: list[dict[str, Any]] = []
    for sort, _ in in_order(sorts, wanted.seed):
        # The next of its sort that becomes a case; a cell that did not is never tried again.
        found = (build.case_of(cell, sort.name) for cell in waiting[sort.name])
        entry = next((one for one in found if one is not None), None)
        if entry is not None:
            entries.append(entry)
            progress(f"case {len(entries)} of {wanted.cases}: {entry['case_id']}")
    index = {"schema_version": 1, "tiers": list(TIERS), "cases": sorted(entries, key=lambda entry: str(entry["case_id"]))}
    _write_beside(index, build)
    return {**index, "left_out": build.left_out}


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


def _unfit(paths: RunPaths, sort: str, beside: Sequence[RunPaths]) -> str:
    """Why a valid run is no case of its sort, or an empty text. Found out once, and kept with the truth of the run."""
    told = truth.load_impact(paths)
    if not told:
        near = healthy_runs(paths, truth.load_plan(paths), beside)
        told = impact(open_case(paths), [_seen(run) for run in near])
        truth.save_impact(paths, told)
    if told in FITS.get(sort, QUIET_FITS):
        return ""
    return NO_EFFECT if sort == FAULTY else f"nothing was to come of it, and the job is {told}"


def _seen(paths: RunPaths) -> Case:
    return open_case(paths, tables=("metrics",))


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


def _write_beside(index: dict[str, Any], build: _Build) -> None:
    out = build.out
    manifests = [json.loads((out / "cases" / case["case_id"] / "manifest.json").read_bytes()) for case in index["cases"]]
    runs = run_by_case()
    versions = _versions(runs[case["case_id"]] for case in index["cases"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    reasons = Counter(missing["reason"] for missing in build.left_out)
    (out / "DATASHEET.md").write_text(datasheet(index, manifests, versions, build.wanted, reasons))
    (out / "loader.py").write_text(LOADER)
    shutil.copyfile(Path(__file__).resolve().parents[1] / "LICENSE", out / "LICENSE")


def _versions(runs: Iterable[RunPaths]) -> Counter[str]:
    manifests: list[Manifest] = [load_manifest(paths) for paths in runs]
    return Counter(manifest.code_version for manifest in manifests)
