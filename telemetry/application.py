"""Turn the job's own statistics (``job/stats/*.jsonl``) into metrics rows."""

from __future__ import annotations

import math
from typing import Any

_COLUMNS = ("wall_s", "mono_s", "step", "stage", "metric", "unit", "value")


def stats_columns(
    component: str, host: str, records: list[dict[str, Any]], source: str
) -> tuple[dict[str, list[Any]], list[str]]:
    """Columns of the metrics table, and one sentence for each record that is not a statistic.

    A record may be about another ``component`` (the callee of a call); ``host`` is where it was told.

    ``value`` may be null (missed). A value that is not finite is refused: it would poison every mean it enters.
    """
    columns: dict[str, list[Any]] = {name: [] for name in (*_COLUMNS, "component")}
    problems: list[str] = []
    for number, record in enumerate(records, start=1):
        fault = _complaint(record)
        if fault:
            problems.append(f"{source}: record {number}: {fault}")
            continue
        for name in _COLUMNS:
            columns[name].append(record[name])
        columns["component"].append(record.get("component", component))
    n = len(columns["metric"])
    return {**columns, "host": [host] * n}, problems


def _complaint(record: dict[str, Any]) -> str:
    missing = [name for name in _COLUMNS if name not in record]
    if missing:
        return f"{', '.join(missing)} missing"
    for name in ("wall_s", "mono_s", "value"):
        value = record[name]
        if value is None and name == "value":
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return f"{name} is {value!r}"
    step = record["step"]
    if not isinstance(step, int) or isinstance(step, bool) or not -1 <= step < 1 << 31:
        return f"step is {step!r}"
    texts = [name for name in ("stage", "metric", "unit", "component") if not isinstance(record.get(name, ""), str)]
    return f"{texts[0]} is {record[texts[0]]!r}" if texts else ""
