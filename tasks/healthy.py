"""Find the healthy runs that come with a case: the same job, in which nothing was done and nothing went wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from storage import truth
from storage.layout import RunPaths
from storage.records import FaultKind
from tasks.outcome import open_case

#: As many for every case that can have them: their number must not tell a control run from another.
MOST = 3


def healthy_runs(paths: RunPaths, plan: dict[str, Any], known: Sequence[RunPaths] | None = None) -> list[RunPaths]:
    """Up to `MOST` healthy runs among ``known`` (default: all beside this one), those of its own posture and scenario first.

    A run of the same seed is never one of them: it shares more with the case than any healthy run of another day could.
    """
    found = []
    for other in [RunPaths(root) for root in sorted(paths.root.parent.iterdir())] if known is None else known:
        try:
            told = truth.load_plan(other)
        except (OSError, ValueError):
            continue  # no run, or one under way: nothing to compare with
        if other.root != paths.root and told.get("seed") != plan.get("seed") and _untouched(told) and _job(told) == _job(plan):
            strange = (told["job"].get("posture") != plan["job"].get("posture"), told["scenario"] != plan["scenario"])
            found.append((strange, other.run_id, other))
    nearest = (other for _, _, other in sorted(found, key=lambda one: one[:2]))
    chosen: list[RunPaths] = []
    for other in nearest:
        if len(chosen) < MOST and open_case(other, tables=("logs",)).healthy:
            chosen.append(other)
    return chosen


def _untouched(plan: dict[str, Any]) -> bool:
    return all(fault["kind"] == FaultKind.NOOP for fault in plan["faults"])


def _job(plan: dict[str, Any]) -> str:
    """Equal for runs of the same job, its posture apart."""
    job = {key: value for key, value in plan["job"].items() if key not in ("seed", "posture")}
    return json.dumps([job, plan.get("place"), plan.get("profile")], sort_keys=True)
