"""Flow `compare`: runs against baseline bands, from what is stored. Needs no job."""

from __future__ import annotations

from prefect import flow

from tasks import steps


@flow(name="compare", flow_run_name="compare", persist_result=True, result_serializer="json")
def compare(run_ids: list[str] | None = None, name: str = "compare") -> str:
    """Compare these runs (default: all) and write the page; returns its path."""
    chosen = steps.choose_runs(run_ids)
    path = steps.report(chosen, name)
    steps.publish("compare", [{"run_id": run} for run in chosen], path)
    return str(path)
