"""The sampler's readings by stage: what a process used while the controller was in a stage.

The sampler knows no steps; its rows are placed by their time into the controller's stages, and averaged per component, stage
and step. A reading covers the half second before it: a shorter stage borrows from its neighbour, in every run alike.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from statistics import fmean

from report.case import Case
from report.sample import Sample, samples_of

#: Readings that mean something on their own; counters that only grow do not.
SAMPLED = ("cpu_ratio", "rss_bytes")


def measured(case: Case) -> list[Sample]:
    """Everything of a run that can be compared: what the job told per step, and what the sampler read per stage."""
    return samples_of(row for row in case.metrics if row["step"] >= 0) + stage_means(case)


def stage_means(case: Case) -> list[Sample]:
    """Means of the sampler's readings per component, metric, stage and step."""
    spans = case.spans()
    starts = [span[2] for span in spans]
    groups: dict[tuple[str, str, str, int, str], list[float]] = defaultdict(list)
    for row in case.metrics:
        value = row["value"]
        if row["step"] >= 0 or row["metric"] not in SAMPLED or value is None or not math.isfinite(value):
            continue
        place = bisect_right(starts, row["wall_s"]) - 1
        if place >= 0 and row["wall_s"] <= spans[place][3]:
            stage, step = spans[place][:2]
            groups[stage, row["metric"], row["component"], step, row["unit"]].append(value)
    return [
        Sample(stage, metric, unit, component, step, fmean(values))
        for (stage, metric, component, step, unit), values in groups.items()
    ]
