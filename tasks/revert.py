"""Revert: undo every fault, prove it gone, and end every process of the run."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import Any

from injection.place import PlaceError, Process
from injection.recover import sweep
from storage.layout import journal_dir
from storage.manifest import RunState, end_manifest
from tasks.launch import Experiment
from tasks.outcome import outcome_of

#: Longest time the injector may take to revert and to prove it, s; longer than its own probes' limits.
REVERT_LIMIT_S = 40.0
#: Longest time the sampler may take for its last flush, s.
FLUSH_LIMIT_S = 10.0


def revert(experiment: Experiment) -> dict[str, Any]:
    """End the run; always runs, any number of times. Returns ``stuck`` (faults that could not be undone) and the exit codes.

    The job stays up until the faults are undone: "gone" is measured on a living target. The sampler ends after it, so that
    the reverting is seen as well.
    """
    if experiment.reverted is not None:
        return experiment.reverted
    codes = {
        "injector": end_process(experiment.injector, REVERT_LIMIT_S, signal.SIGTERM if experiment.observed else signal.SIGINT)
    }
    code = _job_code(experiment)
    if experiment.job:
        experiment.job.stop()
    codes["sampler"] = end_process(experiment.sampler, FLUSH_LIMIT_S)
    codes["watchdog"] = end_process(experiment.watchdog, REVERT_LIMIT_S)
    if experiment.place:
        experiment.place.close()
    stuck = [outcome for outcome in sweep(journal_dir()) if outcome.outcome == "stuck"]
    end_process(experiment.guard, REVERT_LIMIT_S)
    experiment.reverted = {"stuck": [str(outcome) for outcome in stuck], "codes": codes, "job_exit_code": code}
    _close_manifest(experiment, code)
    return experiment.reverted


def _job_code(experiment: Experiment) -> int | None:
    """The job's exit code; None while it runs, before it was started, and where the place can no longer tell."""
    with contextlib.suppress(PlaceError, OSError):
        if experiment.job and experiment.job.controller:
            return experiment.job.controller.poll()
    return None


def end_process(process: Process | subprocess.Popen[bytes] | None, limit_s: float, number: int = signal.SIGTERM) -> int | None:
    """Ask a process to end and wait; kill it when its time is over. None when it was never started or cannot be told."""
    if process is None:
        return None
    with contextlib.suppress(PlaceError, ProcessLookupError, OSError):
        if process.poll() is None:
            _signal(process, number)
        return _wait(process, limit_s)
    return None


def _wait(process: Process | subprocess.Popen[bytes], limit_s: float) -> int | None:
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        code = None
    if code is None:
        _signal(process, signal.SIGKILL)
        code = process.wait(5.0)
    return code


def _signal(process: Process | subprocess.Popen[bytes], number: int) -> None:
    if isinstance(process, subprocess.Popen):
        process.send_signal(number)
    else:
        process.signal(number)


def _close_manifest(experiment: Experiment, code: int | None) -> None:
    """Say in the manifest how the run ended; a failed job is a completed run, a fault that did not happen an invalid one."""
    if not experiment.paths.manifest.exists():
        return
    started = experiment.job is not None and experiment.job.controller is not None
    state = RunState.CRASHED
    if started:
        state = RunState.COMPLETED if outcome_of(experiment.paths)["valid"] else RunState.INVALID
    end_manifest(experiment.paths, state, {"job_exit_code": code})
