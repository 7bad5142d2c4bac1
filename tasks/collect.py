"""Collect: from what the job and the injector left to the run's tables."""

from __future__ import annotations

from typing import Any

from storage import truth
from storage.layout import RunPaths
from tasks.markers import markers
from telemetry.collect import collect_run


def collect(paths: RunPaths) -> dict[str, Any]:
    """Write the run's tables and markers; may be repeated. Returns row counts, and problems (see `collect_run`)."""
    plan, history = truth.load_plan(paths), truth.load_history(paths)
    truth.save_markers(paths, markers(plan, history))
    return collect_run(paths, plan, history)
