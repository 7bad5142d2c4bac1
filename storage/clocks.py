"""When the clocks of a run's hosts were too far apart for a time between two of them to mean anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from storage.catalogue import query

#: The experiment plan's bound.
BOUND_S = 0.010


@dataclass(frozen=True)
class ClockGap:
    """From the last reading that was good to the next one (of the first and last reading, from and to that itself)."""

    run_id: str
    host: str
    from_s: float
    to_s: float
    offset_s: float
    """the largest in between, by its size"""

    def told(self) -> str:
        """For a person who reads times of this run."""
        start, end = (time.strftime("%H:%M:%S", time.gmtime(seconds)) for seconds in (self.from_s, self.to_s))
        away = f"{abs(self.offset_s):.3f} s {'ahead' if self.offset_s > 0 else 'behind'}"
        where = f"{self.run_id}: from {start} to {end} UTC the clock of {self.host} was {away}"
        return f"{where}: a time between it and another host means nothing"


def clock_gaps(run_ids: Sequence[str] | None = None) -> list[ClockGap]:
    """Stretches of wall clock time in which a host was off by more than the bound, for certain; of all runs (None) or some.

    Empty also where nobody asked (source `clock`), so look whether there are readings. Raises as `storage.catalogue.query`.
    """
    rows = query(_READINGS, run_ids, {"bound_s": BOUND_S}).dicts()
    gaps: list[ClockGap] = []
    for number, row in enumerate(rows):
        if not row["far"]:
            continue
        same = [other for other in rows[max(0, number - 1) : number + 2] if _whose(other) == _whose(row)]
        start, end, offset = same[0]["wall_s"], same[-1]["wall_s"], row["offset_s"]
        last = gaps[-1] if gaps else None
        if last and (last.run_id, last.host) == _whose(row) and last.to_s >= row["wall_s"]:
            gaps.pop()
            start, offset = last.from_s, max(last.offset_s, offset, key=abs)
        gaps.append(ClockGap(*_whose(row), start, end, offset))
    return gaps


def _whose(row: dict[str, object]) -> tuple[str, str]:
    return str(row["run_id"]), str(row["host"])


_READINGS = """
SELECT run_id, host, wall_s, offset_s, abs(offset_s) - error_s > $bound_s AS far FROM (
    SELECT run_id, host, wall_s, any_value(value) FILTER (metric = 'clock_offset_s') AS offset_s,
           any_value(value) FILTER (metric = 'clock_error_s') AS error_s
    FROM metrics WHERE metric IN ('clock_offset_s', 'clock_error_s') GROUP BY run_id, host, wall_s
) WHERE offset_s IS NOT NULL AND error_s IS NOT NULL ORDER BY run_id, host, wall_s
"""
