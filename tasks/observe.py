"""Observe: watch the job to its end, or to the end of its time."""

from __future__ import annotations

import time
from typing import Any

from injection.receipts import History
from tasks.launch import Experiment
from tasks.waiting import how_it_ended

POLL_S = 0.1


def observe(experiment: Experiment) -> dict[str, Any]:
    """Wait for the controller to end. Returns ``exit_code`` (None = it was still running), ``seconds`` and ``lost``.

    ``lost`` holds a sentence for each of the lab's own processes that ended: the run is over at once, and the history calls
    it invalid, because nothing that is missing must be taken for nothing that happened.
    """
    job = experiment.job
    assert job is not None
    assert job.controller is not None
    began = time.monotonic()
    deadline = began + experiment.plan["observe_timeout_s"]
    while (code := job.controller.poll()) is None and time.monotonic() < deadline and not _lost(experiment):
        time.sleep(POLL_S)
    lost = _lost(experiment)
    if lost:
        history = History(experiment.paths.history)
        for sentence in lost:
            history.state("invalid", "", reason=sentence)
        history.close()
    experiment.observed = not lost
    return {"exit_code": code, "seconds": time.monotonic() - began, "lost": lost}


def _lost(experiment: Experiment) -> list[str]:
    ended = {name: process.poll() for name, process in experiment.instruments().items()}
    return [f"the {name} {how_it_ended(code)} during the run" for name, code in ended.items() if code is not None]
