"""Flow `blind-diagnosis`: sealed cases to diagnosers, answers to the scorer. Needs no job."""

from __future__ import annotations

from typing import Any

from prefect import flow

from storage.layout import run_paths
from tasks import steps


@flow(name="blind-diagnosis", flow_run_name="blind-diagnosis", persist_result=True, result_serializer="json")
def blind_diagnosis(
    run_ids: list[str] | None = None, diagnosers: list[str] | None = None, tiers: list[str] | None = None
) -> list[dict[str, Any]]:
    """Diagnose and score these sealed runs (default: all); one row a run."""
    rows = []
    for run in steps.choose_runs(run_ids):
        paths = run_paths(run)
        answers = steps.diagnose(paths, diagnosers, tiers)
        steps.score(paths)
        rows.append({"run_id": run, "answers": len(answers)})
    steps.publish("blind-diagnosis", rows)
    return rows
