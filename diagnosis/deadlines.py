"""When somebody who watched a job could have known that something was wrong: a stage over its deadline, or an error.

The deadline of a stage is the upper prediction bound of a normal model of log seconds, from the same stage in other steps and,
where there are any, in healthy runs. A stage that cost less than a step is never over it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import exp, log, sqrt
from statistics import NormalDist, fmean, stdev

from diagnosis.story import Opening, Story

#: One false alarm in so many stages.
QUANTILE = NormalDist().inv_cdf(1 - 1 / 10_000)
#: Log seconds: no stage's time is known better than by a third.
LEAST_SPREAD = 0.3

Spans = dict[str, list[tuple[float, Opening]]]


def first_alarm(story: Story, healthy: Iterable[Story]) -> float | None:
    """The first moment, on the case's clock, at which a stage was overdue or an error was logged; None for a quiet run."""
    errors = [record.time_s for records in story.records.values() for record in records if record.logged_as_error]
    return min([*errors, *(alarm_s for alarm_s, _ in overdue(story, healthy))], default=None)


def overdue(story: Story, healthy: Iterable[Story]) -> list[tuple[float, Opening]]:
    """(when its deadline had passed, stage) of every stage that took longer than a healthy one would."""
    usual = [_spans(run) for run in healthy]
    return [
        (opening.time_s + bound, opening)
        for what, found in _spans(story).items()
        for index, (took, opening) in enumerate(found)
        for bound in [max(story.step_s, _bound([t for i, (t, _) in enumerate(found) if i != index] + _times(usual, what)))]
        if took > bound
    ]


def _spans(story: Story) -> Spans:
    """Seconds of each announcement until the next, from the second step on; the last until the job's ending."""
    found: Spans = defaultdict(list)
    ends = [opening.time_s for opening in story.openings[1:]] + [story.ending_s]
    for opening, end_s in zip(story.openings, ends, strict=True):
        if opening.step >= 1 and end_s < float("inf"):
            found[opening.event or opening.stage].append((end_s - opening.time_s, opening))
    return found


def _times(healthy: list[Spans], what: str) -> list[float]:
    return [took for run in healthy for took, _ in run.get(what, [])]


def _bound(seconds: list[float]) -> float:
    """Upper prediction bound of one more such stage; infinite when fewer than three are known."""
    logs = [log(max(took, 1e-3)) for took in seconds]
    if len(logs) < 3:
        return float("inf")
    return exp(fmean(logs) + QUANTILE * max(stdev(logs), LEAST_SPREAD) * sqrt(1 + 1 / len(logs)))
