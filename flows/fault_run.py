"""Flow `fault-run`: the unit. One experiment from launch to score."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.hooks import undo
from tasks import steps
from tasks.machine_lock import machine_lock
from tasks.plan import Cell
from tasks.revert import revert
from tasks.unfinished import cut_short

#: How long a run waits for another one to leave the machine, s. Longer than any cell, shorter than a night.
MACHINE_WAIT_S = 3600.0


@flow(
    name="fault-run",
    flow_run_name="{scenario}-{arm}-{seed}",
    on_cancellation=[undo],
    on_crashed=[undo],
    persist_result=True,
    result_serializer="json",
)
def fault_run(
    scenario: str, arm: str = "legacy", seed: int = 17, profile: str = "smoke", place: str | None = None
) -> dict[str, Any]:
    """Run one scenario in one arm; the result names the run, its plan's hash, whether it is valid and what came of it."""
    plan = steps.plan(Cell(scenario, arm, seed, profile), place)
    with machine_lock(f"flow run {flow_run.id}", MACHINE_WAIT_S):
        steps.preflight()
        experiment = steps.launch(plan)
        try:
            steps.arm(experiment)
            steps.observe(experiment)
            steps.revert(experiment)
        except BaseException as error:
            revert(experiment)  # the verb itself: idempotent, and works when Prefect is what failed
            cut_short(experiment.paths, error)
            raise
        steps.collect(experiment.paths)
    steps.seal(experiment.paths)
    steps.diagnose(experiment.paths)
    steps.score(experiment.paths)
    return steps.summarise(plan, experiment.paths)
