"""Prefect's view of the verbs: one thin task for each, and nothing else in the project is a task.

The verbs themselves know no Prefect, so `faultline run` and the tests need no server. No step is retried or cached: a
repeated launch would be another experiment, a cached one none. Handles are passed as they are, never stored.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from storage.catalogue import list_runs, open_run
from storage.layout import RunPaths
from tasks import arm as arming
from tasks import collect as collecting
from tasks import diagnose as diagnosing
from tasks import launch as launching
from tasks import observe as observing
from tasks import person as people
from tasks import report as reporting
from tasks import revert as reverting
from tasks import score as scoring
from tasks import seal as sealing
from tasks.outcome import outcome_of
from tasks.plan import Cell, Plan, matrix_cells, plan_cell, plan_hash
from tasks.recover import ready_machine
from tasks.summary import describe

#: The logger whose lines Prefect keeps (PREFECT_LOGGING_EXTRA_LOGGERS) and `faultline matrix` shows.
log = logging.getLogger("faultline")
log.setLevel(logging.INFO)

STEP: dict[str, Any] = {"retries": 0, "cache_policy": NO_CACHE, "persist_result": False}


@task(name="plan", task_run_name="plan {cell.scenario} {cell.arm}", **STEP)
def plan(cell: Cell, place: str | None) -> Plan:
    """Fix every default and every draw."""
    return plan_cell(cell, place)


@task(name="plan-matrix", task_run_name="plan {profile}", **STEP)
def plan_matrix(
    scenarios: list[str], arms: list[str], repeats: int, baselines: int, seed: int, profile: str, place: str | None
) -> list[Cell]:
    """The cells of a matrix, each planned once already: what cannot be planned is refused before anything starts."""
    cells = matrix_cells(scenarios, arms, repeats, baselines, seed, profile)
    for cell in cells:
        plan_cell(cell, place)
    return cells


@task(name="preflight", task_run_name="preflight", **STEP)
def preflight() -> list[Any]:
    """End and undo what an interrupted run left: it would be this run's fault. The machine is ours, so no run is under way."""
    outcomes = ready_machine()
    for outcome in outcomes:
        log.warning("recover: %s", outcome)
    return outcomes


@task(name="launch", task_run_name="launch", **STEP)
def launch(plan: Plan) -> launching.Experiment:
    """Start the job where the plan says."""
    experiment = launching.launch(plan)
    log.info("run %s launched on the %s", experiment.paths.run_id, plan["place"])
    return experiment


@task(name="arm", task_run_name="arm", **STEP)
def arm(experiment: launching.Experiment) -> None:
    """Make the plan's triggers ready."""
    arming.arm(experiment)


@task(name="observe", task_run_name="observe", **STEP)
def observe(experiment: launching.Experiment) -> dict[str, Any]:
    """Watch the job to its end."""
    return observing.observe(experiment)


@task(name="revert", task_run_name="revert", **STEP)
def revert(experiment: launching.Experiment) -> dict[str, Any]:
    """Undo the faults and end every process."""
    return reverting.revert(experiment)


@task(name="collect", task_run_name="collect {paths.run_id}", **STEP)
def collect(paths: RunPaths) -> dict[str, Any]:
    """Turn what the job left into tables."""
    return collecting.collect(paths)


@task(name="seal", task_run_name="seal {paths.run_id}", **STEP)
def seal(paths: RunPaths) -> dict[str, Any]:
    """Part evidence from truth and commit to the truth."""
    return sealing.seal_run(paths)


@task(name="diagnose", task_run_name="diagnose {paths.run_id}", **STEP)
def diagnose(paths: RunPaths, names: list[str] | None = None, tiers: list[str] | None = None) -> list[dict[str, Any]]:
    """Let diagnosers (default: all, on every tier) see the evidence."""
    return diagnosing.diagnose_run(paths, names or None, tiers or None)


@task(name="open-by-hand", task_run_name="open {paths.run_id}", **STEP)
def open_by_hand(paths: RunPaths, person: str, about: dict[str, Any], tier: str) -> people.OpenCase:
    """Give the case to a person."""
    return people.open_case(paths, person, about, tier)


@task(name="show-case", task_run_name="show case", **STEP)
def show_case(case: people.OpenCase) -> dict[str, Any]:
    """A page for each log of the tier, served and metered as to a program; returns what the case tells of itself."""
    told: dict[str, Any] = case.server.reply(b'{"call": "case"}\n')["result"]
    for path in case.server.reply(b'{"call": "list_files"}\n')["result"]:
        lines = case.server.reply(json.dumps({"call": "read", "path": path}).encode() + b"\n")["result"]
        key = path.replace("/", "-").removesuffix(".log")
        create_markdown_artifact(key=key, markdown="~~~~\n" + "\n".join(lines) + "\n~~~~", description=path)
    return told


@task(name="close-by-hand", task_run_name="close", **STEP)
def close_by_hand(case: people.OpenCase, answer: dict[str, Any] | None, reason: str, wall_s: float) -> dict[str, Any]:
    """Keep what the person answered."""
    return case.close(answer, reason, wall_s)


@task(name="score", task_run_name="score {paths.run_id}", **STEP)
def score(paths: RunPaths) -> dict[str, Any]:
    """Open the truth and score the answers."""
    return scoring.score_run(paths)


@task(name="summarise", task_run_name="summarise {paths.run_id}", **STEP)
def summarise(plan: Plan, paths: RunPaths) -> dict[str, Any]:
    """The small result of a run, by which a matrix knows what it has."""
    found = outcome_of(paths)
    log.info("run %s: %s", paths.run_id, describe(found))
    return {"run_id": paths.run_id, "plan_hash": plan_hash(plan), "valid": found["valid"], "outcome": describe(found)}


@task(name="choose-runs", task_run_name="choose runs", **STEP)
def choose_runs(run_ids: list[str] | None) -> list[str]:
    """The runs asked for, or every run there is; an unknown one is refused."""
    return [open_run(run).run_id for run in run_ids] if run_ids else [row.run_id for row in list_runs()]


@task(name="report", task_run_name="report {name}", **STEP)
def report(run_ids: list[str], name: str) -> Path:
    """Compare the runs with their baselines and write the page."""
    path = reporting.write_report(run_ids, name)
    log.info("report: %s", path)
    return path


@task(name="publish", task_run_name="publish {key}", **STEP)
def publish(key: str, rows: list[dict[str, Any]], page: Path | None = None) -> None:
    """Show rows and page in Prefect. Artifacts are views; what is stored under the runs is the source of truth."""
    create_table_artifact(key=key, table=json.loads(json.dumps(rows, default=str)), description=f"{key}: one row a run")
    runs = [row["run_id"] for row in rows if row.get("run_id")]
    text = reporting.markdown_table(reporting.result_table(runs)) if runs else "No run came to its end."
    create_markdown_artifact(key=f"{key}-report", markdown=f"{text}\n\n{f'Page: `{page}`' if page else ''}")
