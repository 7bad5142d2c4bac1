"""Experiment: the verbs in their order, without a server. A flow does the same with one Prefect task a verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from injection.recover import sweep
from storage.layout import RunPaths, journal_dir
from tasks.arm import arm
from tasks.collect import collect
from tasks.diagnose import diagnose_run
from tasks.launch import launch
from tasks.machine_lock import machine_lock
from tasks.observe import observe
from tasks.outcome import outcome_of
from tasks.plan import Plan
from tasks.revert import revert
from tasks.score import score_run
from tasks.seal import seal_run

Progress = Callable[[str], None]


def run_experiment(plan: Plan, progress: Progress = lambda _: None) -> dict[str, Any]:
    """One run from launch to score. Whatever happens, what was started is reverted and ended.

    Returns the run's outcome with its ``run_id`` (see `tasks.outcome.outcome_of`).
    """
    paths = attempt(plan, progress)
    progress("collect")
    collect(paths)
    return judge(paths, progress)


def attempt(plan: Plan, progress: Progress) -> RunPaths:
    """Everything that needs the machine for itself: from the sweep of old faults to the end of every process."""
    with machine_lock(f"{plan['scenario']} {plan['arm']}"):
        for line in sweep(journal_dir()):
            progress(f"sweep: {line}")
        progress("launch")
        experiment = launch(plan)
        try:
            progress(f"arm {experiment.paths.run_id}")
            arm(experiment)
            progress("observe")
            observe(experiment)
        finally:
            progress("revert")
            revert(experiment)
    return experiment.paths


def judge(paths: RunPaths, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Seal, diagnose and score a collected run; needs no machine of its own. An invalid run is not a case and is not judged."""
    outcome = {"run_id": paths.run_id, **outcome_of(paths)}
    if not outcome["valid"]:
        return outcome
    progress("seal")
    seal_run(paths)
    progress("diagnose")
    diagnose_run(paths)
    progress("score")
    score_run(paths)
    return outcome
