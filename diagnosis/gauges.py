"""The metrics of a case by subject, asked for once each; missed samples are left out.

Only a stretch of time around the trouble is asked for: a case of fifty workers has some hundred thousand samples, and what
links did long before says nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from statistics import median

from diagnosis.reader import Reader, Sample

#: Samples that are further apart are means over a while.
FINE_S = 2.0

#: Metrics of which there is a value at every beat, and of how many subjects the beat is read off.
SOME = 4
_REGULAR = ("process_state", "link_send_queue_bytes", "disk_free_bytes")

Series = list[Sample]


class Gauges:
    """What the tier's metrics say of the case's own run between two times; nothing, where it has none."""

    def __init__(self, reader: Reader, since_s: float | None = None, until_s: float | None = None) -> None:
        self._reader, self._since_s, self._until_s = reader, since_s, until_s
        self._asked: dict[tuple[str, str], dict[str, Series]] = {}

    def of(self, metric: str, subject: str = "") -> dict[str, Series]:
        """Series of a metric by subject; of one subject alone, if one is given."""
        if metric not in self._known:
            return {}
        if (metric, subject) not in self._asked:
            found: dict[str, Series] = defaultdict(list)
            for sample in self._reader.query_metric(metric, subject, self._since_s, self._until_s):
                if sample.value is not None:
                    found[sample.subject].append(sample)
            self._asked[metric, subject] = dict(found)
        return self._asked[metric, subject]

    def one(self, metric: str, subject: str) -> Series:
        """The series of one subject, empty without one."""
        return self.of(metric, subject).get(subject, [])

    @cached_property
    def beat_s(self) -> float:
        """Seconds from one sample to the next; infinite without samples."""
        for metric in filter(self._known.__contains__, _REGULAR):
            some = [self.one(metric, subject) for subject in self._known[metric][:SOME]]
            longest = max(some, key=len, default=[])
            if len(longest) > 1:
                return median([after.time_s - before.time_s for before, after in pairwise(longest)])
        return float("inf")

    @property
    def any(self) -> bool:
        """Whether there are metrics at all."""
        return bool(self._known)

    @property
    def fine(self) -> bool:
        """Whether samples are close enough to tell a state from its mean."""
        return self.beat_s < FINE_S

    @cached_property
    def _known(self) -> dict[str, tuple[str, ...]]:
        return {metric.metric: metric.subjects for metric in self._reader.list_metrics()}


def value(sample: Sample) -> float:
    """The number; samples without one are not kept."""
    return sample.value or 0.0


def first(series: Series, holds: Callable[[Sample], bool]) -> tuple[float, float] | None:
    """Time of the sample before, and of the first for which it holds (the earlier one 0 when it is the first of all)."""
    before_s = 0.0
    for sample in series:
        if holds(sample):
            return before_s, sample.time_s
        before_s = sample.time_s
    return None


def by_time(series: Series) -> dict[float, float]:
    """Value by time: series of one beat share their times."""
    return {sample.time_s: value(sample) for sample in series}


def typical(values: Sequence[float]) -> float:
    """Median, 0 of nothing."""
    return median(values) if values else 0.0
