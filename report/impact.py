"""Whether what was done to a job mattered to it: the gate that a fault has to pass before its run is a case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from report.case import Case
from report.outcome import Record, seam_events
from storage.records import Role

#: A step is slow that takes so many times as long as the longest of the healthy runs. A machine with other work to do makes
#: steps of twice the usual length by itself.
SLOW = 3.0
SLOWED = "slowed"


def impact(case: Case, healthy: Iterable[Case]) -> str:
    """What the run's outcome says (failed, degraded, unknown); else slowed, if a step from the fault on was; else none.

    `healthy` are runs of the same job; without any, no step is slow.
    """
    told = str(case.outcome["impact"])
    if told != "none":
        return told
    usual = max((seconds for run in healthy for seconds in _measured(run)), default=float("inf"))
    since = [seconds for step, seconds in step_seconds(case.history).items() if step >= case.fault_step]
    return SLOWED if max(since, default=0.0) > SLOW * usual else "none"


def step_seconds(history: Sequence[Record]) -> dict[int, float]:
    """How long each training step took, from its first to its last announcement by the controller."""
    times: dict[int, list[float]] = {}
    for event in seam_events(history):
        if event["component"] == Role.CONTROLLER and event["step"] >= 0 and event["stage"] != "cleanup":
            times.setdefault(int(event["step"]), []).append(float(event["mono_s"]))
    return {step: max(told) - min(told) for step, told in times.items()}


def _measured(run: Case) -> list[float]:
    """Seconds of the steps that are not warm-up."""
    warm = int(run.plan.get("warmup_steps", 0))
    return [seconds for step, seconds in step_seconds(run.history).items() if step >= warm]
