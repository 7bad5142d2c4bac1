"""Markers: for each time a fault was in force, the experiment plan's four keys, and when it was asked, done, seen and gone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from storage.records import FaultKind


def markers(plan: dict[str, Any], history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record a time that a real fault was applied, in the order of time.

    `fault_injection_start` (UTC), `fault_type`, `target_worker` and `expected_failure_stage` have the plan's names.
    `event_mono_s` is when the announcement arrived, `applied_mono_s` when the act was over, `observed_mono_s` when the probe
    first had its proof (of a measurement over a window: at its end), `gone_mono_s` when its absence was proved; null = not.
    """
    faults = {fault["id"]: fault for fault in plan["faults"] if fault["kind"] != FaultKind.NOOP}
    expected = (plan.get("expected") or {}).get("error", {}).get("stage", "")
    found: list[dict[str, Any]] = []
    latest: dict[str, dict[str, Any]] = {}
    event_mono_s: dict[str, float] = {}
    for line in history:
        fault = faults.get(str(line.get("fault_id")))
        if fault is None:
            continue
        if line["what"] == "fired":
            event_mono_s[fault["id"]] = line["event_mono_s"]
        elif line["what"] == "applied":
            latest[fault["id"]] = _marker(fault, line, expected, event_mono_s.get(fault["id"]), _offset_s(history))
            found.append(latest[fault["id"]])
        elif line["what"] in ("verified", "gone") and line.get("ok") and fault["id"] in latest:
            key = "observed_mono_s" if line["what"] == "verified" else "gone_mono_s"
            latest[fault["id"]][key] = latest[fault["id"]][key] or line["receipt"]["mono_s"]
    return found


def _marker(
    fault: dict[str, Any], line: dict[str, Any], expected: str, event_mono_s: float | None, offset_s: float
) -> dict[str, Any]:
    target = fault["target"]
    return {
        "fault_injection_start": datetime.fromtimestamp(line["mono_s"] + offset_s, UTC).isoformat(timespec="microseconds"),
        "fault_type": str(fault["kind"]).replace("-", "_"),
        "target_worker": target["src"] if target["type"] == "link" else target["component"],
        "expected_failure_stage": expected,
        "fault_id": fault["id"],
        "step": line.get("step"),
        "stage": line.get("stage"),
        "event_mono_s": event_mono_s,
        "applied_mono_s": line["mono_s"],
        "observed_mono_s": None,
        "gone_mono_s": None,
    }


def _offset_s(history: list[dict[str, Any]]) -> float:
    """Wall clock less monotonic clock, by the first line that took both at once."""
    return next(float(line["wall_s"] - line["mono_s"]) for line in history if line["what"] in ("event", "armed"))
