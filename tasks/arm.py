"""Arm: wait until every fault of the plan has found its target and is ready to fire."""

from __future__ import annotations

from storage import truth
from tasks.launch import Experiment
from tasks.waiting import wait_for

#: A job that starts on a busy machine with many workers needs its time.
ARM_LIMIT_S = 240.0


def arm(experiment: Experiment) -> None:
    """Wait for the injector to report each fault armed. Raises LabError when the job ends first, or a fault cannot be armed."""
    job = experiment.job
    assert job is not None
    assert job.controller is not None
    wanted = {fault["id"] for fault in experiment.plan["faults"]}

    def ready() -> bool:
        told = {line["fault_id"] for line in truth.load_history(experiment.paths) if line["what"] in ("armed", "invalid")}
        return wanted <= told

    if wanted:
        log = experiment.paths.logs / "controller.log"
        wait_for("the job's workers stand and the plan is armed", ready, job.controller, log, ARM_LIMIT_S)
