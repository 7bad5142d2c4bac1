"""Collect: from what the job and the injector left to the run's tables."""

from __future__ import annotations

from typing import Any

from storage import truth
from storage.layout import RunPaths
from telemetry.collect import collect_run


def collect(paths: RunPaths) -> dict[str, Any]:
    """Write the run's tables; may be repeated. Returns row counts and what could not be read (see `collect_run`)."""
    return collect_run(paths, truth.load_plan(paths), truth.load_history(paths))
