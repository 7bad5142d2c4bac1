"""Arm: wait until every fault of the plan has found its target and is ready to fire."""

from __future__ import annotations

from typing import Any

from storage import truth
from tasks.launch import Experiment
from tasks.waiting import LabError, Watched, wait_for

#: A job that starts on a busy machine with many workers needs its time.
ARM_LIMIT_S = 240.0


def arm(experiment: Experiment) -> None:
    """Wait for the injector to report each fault armed.

    Raises LabError when a process of the job or of the lab ends first, or a fault cannot be armed.
    """
    wanted = {fault["id"] for fault in experiment.plan["faults"]}

    def told(what: str) -> dict[str, dict[str, Any]]:
        return {line["fault_id"]: line for line in truth.load_history(experiment.paths) if line["what"] == what}

    def refused() -> dict[str, dict[str, Any]]:
        armed = told("armed")
        return {fault: line for fault, line in told("invalid").items() if fault in wanted and fault not in armed}

    if not wanted:
        return
    wait_for("the plan was armed", lambda: bool(refused()) or wanted <= told("armed").keys(), watched(experiment), ARM_LIMIT_S)
    for fault, line in refused().items():
        raise LabError(f"fault {fault} cannot be armed: {line.get('reason', 'no reason was given')}")


def watched(experiment: Experiment) -> list[Watched]:
    """All that must live for a run to begin: causes before their consequences."""
    job, own = experiment.job, experiment.paths.lab_logs
    assert job is not None
    instruments = experiment.instruments().items()
    return [
        *(Watched(f"the {name}", process, (own / f"{name}.log",)) for name, process in instruments),
        *(Watched(name, process, logs) for name, process, logs in job.processes()),
    ]
