"""Whether what was done to a job mattered to it: the gate that a fault has to pass before its run is a case."""

from __future__ import annotations

from collections.abc import Sequence

from report.case import Case
from report.outcome import Record, seam_events
from storage.records import Role

#: A step is slow that takes so many times as long as the longest of the healthy runs. A machine with other work to do makes
#: steps of twice the usual length by itself.
SLOW = 3.0
#: A step taught nothing whose mean reward is less than this part of the poorest one of the healthy runs.
POOR = 0.25
SLOWED, UNTAUGHT, STALE = "slowed", "untaught", "stale"
#: What a fault may do to a job that says nothing of it.
SILENT = (STALE, UNTAUGHT, SLOWED)


def impact(case: Case, healthy: Sequence[Case]) -> str:
    """What the run's outcome says (failed, degraded, unknown); else what a step since the fault suffered unsaid; else none.

    Sampled with weights older than any in the healthy runs: stale. A mean reward of next to nothing: untaught. Many times as
    long: slowed. `healthy` are runs of the same job with their metrics; without any nothing is held against the run.
    """
    told = str(case.outcome["impact"])
    if told != "none" or not healthy:
        return told
    stale = _values(case, "staleness_count", case.fault_step)
    if max(stale, default=0.0) > max((old for run in healthy for old in _values(run, "staleness_count")), default=float("inf")):
        return STALE
    reward = _values(case, "reward", case.fault_step, Role.CONTROLLER)
    poorest = min((one for run in healthy for one in _values(run, "reward", _warm(run), Role.CONTROLLER)), default=0.0)
    if min(reward, default=float("inf")) < POOR * poorest:
        return UNTAUGHT
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
    return [seconds for step, seconds in step_seconds(run.history).items() if step >= _warm(run)]


def _warm(run: Case) -> int:
    return int(run.plan.get("warmup_steps", 0))


def _values(case: Case, metric: str, first_step: int = 0, component: str = "") -> list[float]:
    """What was told of a metric from a step on, by one component or all."""
    rows = (row for row in case.metrics if row["metric"] == metric and component in ("", row["component"]))
    return [float(row["value"]) for row in rows if row["step"] >= max(0, first_step) and row["value"] is not None]
