"""Show a run to the experimenter: everything that is kept of it, truth included. Never a door for diagnosers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from report.bystanders import MEASURES, Run, bystanders
from report.peers import unlike_peers
from storage import truth
from storage.catalogue import RunRow, list_runs, open_run
from storage.clocks import clock_gaps
from storage.layout import run_paths
from tasks.outcome import outcome_of, rows_of


def plan_of(run_id: str) -> dict[str, Any]:
    """The plan of a run, to be looked at or repeated. FileNotFoundError where there is no such run."""
    open_run(run_id)
    return truth.load_plan(run_paths(run_id))


def show_run(run_id: str) -> dict[str, Any]:
    """Manifest, plan, what was done and seen of it, outcome, answers and score; what is not there yet is empty.

    ``peers``: the workers that were unlike the others of their role, null where no role has enough of them; ``clocks``: when
    times between hosts meant nothing.
    """
    row = open_run(run_id)
    paths = run_paths(run_id)
    strange = unlike_peers(rows_of(paths, "metrics", []))
    return {
        "run": asdict(row),
        "folder": str(paths.root),
        "plan": plan_of(run_id),
        "injections": [line for line in truth.load_history(paths) if line.get("what") != "event"],
        "bystanders": _bystanders(row),
        "peers": None if strange is None else [asdict(one) for one in strange],
        "clocks": [{**asdict(gap), "told": gap.told()} for gap in clock_gaps([run_id])],
        "outcome": outcome_of(paths),
        "answers": [_read(path) for path in sorted(paths.answers.glob("*.json"))],
        "score": _read(paths.score),
    }


def faults_by_component(run_id: str) -> dict[str, str]:
    """Component -> what is or will be done to it and how far that is, in words; a link counts for both of its ends."""
    paths = run_paths(run_id)
    last = {line["fault_id"]: line["what"] for line in truth.load_history(paths) if line.get("fault_id")}
    words: dict[str, list[str]] = {}
    for fault in truth.load_plan(paths).get("faults", []):
        target = fault["target"]
        for end in {target.get("component"), target.get("src"), target.get("dst")} - {None}:
            words.setdefault(end, []).append(f"{fault['id']} {fault['kind']}: {last.get(fault['id'], 'planned')}")
    return {component: "; ".join(told) for component, told in words.items()}


def _bystanders(row: RunRow) -> dict[str, Any]:
    """Whether anybody was hit who was not meant. `against`: the control arm of the same seed; "" = the run's time before."""
    alike = (row.scenario, row.seed, row.place, row.profile)
    controls = [one for one in list_runs() if one.arm.endswith("control") and one.valid]
    same = [one for one in controls if (one.scenario, one.seed, one.place, one.profile) == alike]
    chosen = next((one.run_id for one in same if one.posture == row.posture), same[0].run_id if same else "")
    found = bystanders(_as_run(row.run_id), _as_run(chosen) if chosen else None)
    return {"against": chosen, "figures": [asdict(one) for one in found]}


def _as_run(run_id: str) -> Run:
    paths = run_paths(run_id)
    rows = [row for row in rows_of(paths, "metrics", []) if row["metric"] in MEASURES]
    return Run(truth.load_plan(paths), truth.load_history(paths), rows)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object from disk; empty when it is not there, named when it is damaged."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        return {"damaged": f"{path.name}: {error}"}
    return found if isinstance(found, dict) else {"damaged": f"{path.name}: not an object"}
