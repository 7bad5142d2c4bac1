"""Turn the history (what the seam announced, what was done about it) into rows of the events, injections and metrics tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Row = tuple[Any, ...]
_NUMBER = (int, float)
_EVENT_FIELDS: dict[str, Any] = {
    "wall_s": _NUMBER,
    "mono_s": _NUMBER,
    "component": str,
    "step": int,
    "stage": str,
    "phase": str,
}
STAGE_COLUMNS = ("wall_s", "mono_s", "component", "host", "step", "stage", "metric", "unit", "value")
#: Metric and unit of what is made of the announcements.
STAGE_METRICS = (("stage_failed_count", "count"), ("stage_gap_s", "s"))
_TOLD = ("wall_s", "mono_s", "what", "fault_id")


def split_history(history: list[dict[str, Any]], plan: dict[str, Any]) -> tuple[list[Row], list[Row], list[str]]:
    """Rows of EVENTS, rows of INJECTIONS, and one sentence for each line that is neither."""
    faults = {fault["id"]: fault for fault in plan.get("faults", [])}
    events: list[Row] = []
    injections: list[Row] = []
    problems: list[str] = []
    for number, line in enumerate(history, start=1):
        wrong = _complaint(line)
        if wrong:
            problems.append(f"history: record {number}: {wrong}")
        elif line["what"] == "event":
            events.append(_event_row(line))
        else:
            injections.append(_injection_row(line, faults.get(str(line.get("fault_id")), {})))
    return events, injections, problems


def stage_columns(events: list[Row], hosts: Mapping[str, str]) -> dict[str, list[Any]]:
    """Columns of the metrics table from rows of EVENTS: how each stage ended, and how long after the one before it began.

    The one before is the component's own, in the same step. ``hosts`` tells where a component is.
    """
    columns: dict[str, list[Any]] = {name: [] for name in STAGE_COLUMNS}
    ended: dict[tuple[str, int], float] = {}
    for wall_s, mono_s, component, _, step, stage, phase, _ in sorted(events, key=lambda row: row[1]):
        before = ended.pop((component, step), None)
        if phase in ("exit", "error"):
            ended[component, step] = mono_s
            told = (*STAGE_METRICS[0], float(phase == "error"))
        elif before is not None:
            told = (*STAGE_METRICS[1], mono_s - before)
        else:
            continue
        row = (wall_s, mono_s, component, hosts.get(component, ""), step, stage, *told)
        for name, value in zip(STAGE_COLUMNS, row, strict=True):
            columns[name].append(value)
    return columns


def target_name(target: dict[str, Any]) -> str:
    """A target as text: the component, or ``src>dst:purpose`` for a link."""
    if target.get("type") == "link":
        return f"{target.get('src')}>{target.get('dst')}:{target.get('purpose')}"
    return str(target.get("component", ""))


def _event_row(line: dict[str, Any]) -> Row:
    detail = json.dumps(line.get("attrs") or {}, sort_keys=True)
    return (line["wall_s"], line["mono_s"], line["component"], "stage", line["step"], line["stage"], line["phase"], detail)


def _injection_row(line: dict[str, Any], fault: dict[str, Any]) -> Row:
    trigger = fault.get("trigger", {})
    detail = json.dumps({key: value for key, value in line.items() if key not in _TOLD}, sort_keys=True)
    return (
        line["wall_s"],
        line["mono_s"],
        str(line.get("fault_id", "")),
        str(fault.get("kind", "")),
        target_name(fault.get("target", {})),
        int(line.get("step", trigger.get("step", -1))),
        str(line.get("stage", trigger.get("stage", ""))),
        line["what"],
        detail,
    )


def _complaint(line: dict[str, Any]) -> str:
    if not isinstance(line.get("what"), str):
        return "it does not say what happened"
    wanted = _EVENT_FIELDS if line["what"] == "event" else {"wall_s": _NUMBER, "mono_s": _NUMBER}
    for name, kind in wanted.items():
        value = line.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"{name} is {value!r}"
    if not -1 <= line.get("step", -1) < 1 << 31:
        return f"step is {line['step']!r}"
    return ""
