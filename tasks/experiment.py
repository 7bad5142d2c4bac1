"""Experiment: the verbs in their order, without a server. A flow does the same with one Prefect task a verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from storage.layout import RunPaths
from tasks.arm import arm
from tasks.collect import collect
from tasks.diagnose import diagnose_run
from tasks.launch import launch
from tasks.machine_lock import machine_lock
from tasks.observe import observe
from tasks.outcome import outcome_of
from tasks.plan import Plan
from tasks.recover import ready_machine
from tasks.revert import revert
from tasks.score import score_run
from tasks.seal import seal_run
from tasks.unfinished import cut_short

Progress = Callable[[str], None]


def run_experiment(plan: Plan, progress: Progress = lambda _: None, wait_s: float = 0.0) -> dict[str, Any]:
    """One run from launch to score. Whatever happens, what was started is reverted and ended.

    Waits up to ``wait_s`` seconds for another run to leave the machine.
    Returns the run's outcome with its ``run_id`` (see `tasks.outcome.outcome_of`).
    """
    paths = attempt(plan, progress, wait_s)
    progress("collect")
    collect(paths)
    return judge(paths, progress)


def attempt(plan: Plan, progress: Progress, wait_s: float = 0.0) -> RunPaths:
    """Everything that needs the machine for itself: from the sweep of old faults to the end of every process."""
    with machine_lock("one run without a server", wait_s):  # everyone may read it: no word of the plan
        for outcome in ready_machine():
            progress(f"recover: {outcome}")
        progress("launch")
        experiment = launch(plan)
        try:
            progress(f"arm {experiment.paths.run_id}")
            arm(experiment)
            progress("observe")
            observe(experiment)
            progress("revert")
            revert(experiment)
        except BaseException as error:
            revert(experiment)
            cut_short(experiment.paths, error)
            raise
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
