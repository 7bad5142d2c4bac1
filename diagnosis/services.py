"""Metrics as the root-cause methods for microservices want them: one column a service and figure, one row a moment.

A service is a component of the job; a link counts to the component that dials it. The figures are those of RCAEval's data sets,
whose scorer knows them by these names. What came too seldom for a row leaves it empty.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import fmean, median

#: Of which metric the distance of samples is the distance of rows: every process has it.
BEAT = "cpu_ratio"

#: Samples of a run: metric -> subject -> (time in seconds, value) by time. What was missed is not among them.
Series = Mapping[str, Mapping[str, list[tuple[float, float]]]]
Column = list[float | None]


@dataclass(frozen=True)
class Figure:
    """What a column tells of a service: which metrics, how those of one moment are made one, and what silence means.

    ``unit`` is how much of the metrics' own is one: memory stays in bytes, which RCAEval itself divides by a million, and rates
    are in megabytes, since a column that is mostly the same is scored in its own unit, and then bytes outweigh everything.
    ``rest`` stands in rows in which none of them told anything, although the service has the column. ``ends``: nothing more is
    told of it because the process is gone, and then it has none.
    """

    name: str
    metrics: str
    combine: Callable[[Iterable[float]], float]
    unit: float = 1.0
    rest: float | None = None
    ends: bool = False


FIGURES = (
    Figure("cpu", r"cpu_ratio", sum, ends=True),
    Figure("mem", r"rss_bytes", sum, ends=True),
    Figure("diskio", r"(read|write)_bytes_per_s", sum, unit=1e6, ends=True),
    Figure("socket", r"link_connections", sum, ends=True),
    Figure("workload", r"link_(acked|received)_bytes_per_s", sum, unit=1e6, rest=0.0),
    Figure("latency", r"link_rtt_s|rpc/\w+/latency_s|timeperf/(?!e2e|init|cleanup)\w+", max),
    Figure("error", r"rpc/\w+/failed_count", sum, rest=0.0),
)


@dataclass(frozen=True)
class Grid:
    """Rows of ``row_s`` seconds each from ``begun_s`` on, the last of them the one in which ``end_s`` lies."""

    begun_s: float
    end_s: float
    row_s: float

    @property
    def rows(self) -> int:
        """How many; at least one."""
        return max(1, ceil((self.end_s - self.begun_s) / self.row_s))

    def row_at(self, time_s: float) -> int:
        """The row of a moment, whether it is there or not."""
        return int((time_s - self.begun_s) // self.row_s)

    def placed(self, samples: Iterable[tuple[float, float]]) -> dict[int, float]:
        """Row -> mean of the samples in it; samples outside are left out."""
        found: dict[int, list[float]] = defaultdict(list)
        for time_s, value in samples:
            if 0 <= self.row_at(time_s) < self.rows:
                found[self.row_at(time_s)].append(value)
        return {row: fmean(values) for row, values in found.items()}


def is_used(metric: str) -> bool:
    """Whether any figure is made of it, or the distance of rows."""
    return any(re.fullmatch(figure.metrics, metric) for figure in FIGURES)


def row_length(series: Series) -> float:
    """Seconds between the samples of one process, the median. Raises ValueError where no process was sampled twice."""
    gaps = [after[0] - before[0] for samples in series.get(BEAT, {}).values() for before, after in pairwise(samples)]
    if not gaps:
        raise ValueError("no process was sampled twice")
    return round(median(gaps), 3)


def service_table(series: Series, services: Iterable[str], grid: Grid) -> dict[str, Column]:
    """Columns ``<service>_<figure>`` of equal length; a service of which nothing was told has no column of that figure."""
    parts: dict[tuple[str, str], list[dict[int, float]]] = defaultdict(list)
    for metric in sorted(series):
        for figure in FIGURES:
            if re.fullmatch(figure.metrics, metric):
                for subject, samples in sorted(series[metric].items()):
                    parts[service_of(subject), figure.name].append(grid.placed(samples))
    return {
        f"{service}_{figure.name}": _combined(figure, told, grid.rows)
        for figure in FIGURES
        for service in sorted(services)
        if any(told := parts[service, figure.name])
    }


def every_metric(series: Series, services: Iterable[str], grid: Grid) -> dict[str, Column]:
    """Each metric of each service as a column of its own, ``<service>_<metric>``; no figure is made, nothing filled."""
    known, columns = set(services), {}
    for metric, subjects in sorted(series.items()):
        for subject, samples in sorted(subjects.items()):
            if service_of(subject) in known:
                told = grid.placed(samples)
                columns[column_name(subject, metric)] = [told.get(row) for row in range(grid.rows)]
    return columns


def held(column: Column) -> list[float]:
    """The column without a gap: as before where nothing was told, and before the first value as then."""
    before = next((value for value in column if value is not None), 0.0)
    found = []
    for value in column:
        before = before if value is None else value
        found.append(before)
    return found


def column_name(subject: str, metric: str) -> str:
    """A name with one underscore, between service and the rest: whoever reads such tables splits it there, and only there."""
    service, _, link = subject.partition(">")
    rest = "-".join(re.findall(r"[A-Za-z0-9]+", f"{link} {metric}"))
    return f"{service}_{rest}"


def service_of(subject: str) -> str:
    """The component itself; of a link the one that dials it."""
    return subject.partition(">")[0]


def _combined(figure: Figure, parts: list[dict[int, float]], rows: int) -> Column:
    told = [[one[row] for one in parts if row in one] for row in range(rows)]
    last = max(row for one in parts for row in one)
    # A row may be missed between two beats; two in a row, and it is over.
    gone = last + 2 if figure.ends else rows
    return [
        figure.combine(values) / figure.unit if values else 0.0 if row >= gone else figure.rest
        for row, values in enumerate(told)
    ]
