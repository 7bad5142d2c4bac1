"""Flow `fault-matrix`: healthy runs and every scenario in every arm, one cell after the other, then the comparison."""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow

from flows.fault_run import fault_run
from flows.hooks import close_subflows, undo
from tasks import steps
from tasks.plan import Cell
from tasks.profiles import profile as profile_called

log = logging.getLogger("faultline")


@flow(
    name="fault-matrix",
    flow_run_name="matrix-{profile}-{seed}",
    on_cancellation=[undo, close_subflows],
    on_crashed=[undo, close_subflows],
    persist_result=True,
    result_serializer="json",
)
def fault_matrix(
    profile: str = "smoke",
    seed: int = 17,
    repeats: int | None = None,
    baselines: int | None = None,
    scenarios: list[str] | None = None,
    arms: list[str] | None = None,
    place: str | None = None,
    page: str | None = None,
) -> dict[str, Any]:
    """Run the matrix of a profile; what is not given comes from the profile. ``page`` names the report.

    The result holds ``rows`` (one a cell, in order) and ``report`` (path of the page). A failed cell is a row, not an error.
    """
    size = profile_called(profile)
    wanted = list(size.scenarios) if scenarios is None else scenarios
    times, healthy = size.repeats if repeats is None else repeats, size.baselines if baselines is None else baselines
    cells = steps.plan_matrix(wanted, arms or [], times, healthy, seed, profile, place)
    rows = []
    for number, cell in enumerate(cells, start=1):
        log.info("cell %d of %d: %s", number, len(cells), cell.name)
        rows.append(run_cell(cell, place))
    report = steps.report([row["run_id"] for row in rows if row["run_id"]], page or f"matrix-{profile}-{seed}")
    steps.publish("fault-matrix", rows, report)
    return {"rows": rows, "report": str(report)}


def run_cell(cell: Cell, place: str | None) -> dict[str, Any]:
    """One cell as a subflow. What goes wrong in it is data; being cancelled or killed is not caught."""
    facts = {"scenario": cell.scenario, "arm": cell.arm, "seed": cell.seed}
    try:
        return facts | fault_run(cell.scenario, cell.arm, cell.seed, cell.profile, place)
    except Exception as error:
        log.error("cell failed: %s: %s", cell.name, error)  # noqa: TRY400 - Prefect has logged the traceback
        return facts | {"run_id": "", "valid": False, "outcome": f"failed: {type(error).__name__}: {error}"}
