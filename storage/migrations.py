"""What becomes of a segment of an older version: one step a version, applied one after the other until it is today's."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

Step = Callable[[pa.Table], pa.Table]


def _logs_1(rows: pa.Table) -> pa.Table:
    """Version 1 did not tell where a row's text lies in the raw log."""
    unknown = pa.nulls(rows.num_rows, pa.int64())
    return rows.append_column("offset", unknown).append_column("size", unknown)


def _metrics_1(rows: pa.Table) -> pa.Table:
    """Version 1 kept every bit of times and values: its rows are finer than today's, and nothing is taken from them."""
    return rows


def _metrics_2(rows: pa.Table) -> pa.Table:
    """Version 2 kept sampled rates to 24 bits: they stay so until they are compacted."""
    return rows


#: (table, version) -> the step to the version after it.
STEPS: dict[tuple[str, int], Step] = {("logs", 1): _logs_1, ("metrics", 1): _metrics_1, ("metrics", 2): _metrics_2}


def migrate(rows: pa.Table, table: str, version: int, wanted: int) -> pa.Table:
    """Rows of ``version`` as rows of version ``wanted`` of the table. KeyError where a step is missing: a mistake of ours."""
    for number in range(version, wanted):
        rows = STEPS[table, number](rows)
    return rows
