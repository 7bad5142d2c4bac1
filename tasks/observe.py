"""Observe: watch the job to its end, or to the end of its time."""

from __future__ import annotations

import time
from typing import Any

from tasks.launch import Experiment

POLL_S = 0.1


def observe(experiment: Experiment) -> dict[str, Any]:
    """Wait for the controller to end. Returns ``exit_code`` (None = it was still running when its time was over) and ``seconds``.

    An injector or sampler that died is told too: what they would have recorded is missing.
    """
    job = experiment.job
    assert job is not None
    assert job.controller is not None
    began = time.monotonic()
    deadline = began + experiment.plan["observe_timeout_s"]
    while (code := job.controller.poll()) is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    lost = [name for name in ("injector", "sampler") if getattr(experiment, name).poll() is not None]
    return {"exit_code": code, "seconds": time.monotonic() - began, "lost": lost}
