"""``peer-outlier``: the worker that left its own past for a while when the others of its role did not. From T2 up.

The distance is a robust z of two samples in a row, less that of the peers' nearest samples. Needs no healthy run.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from statistics import median

from diagnosis.clues import causes, metric_kinds
from diagnosis.reader import Reader, Sample
from diagnosis.story import Story
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis

#: Median absolute deviations (times 1.4826: standard deviations) from which a worker is an outlier.
OUTLIER = 12.0
SCALE = 1.4826


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the worker with the largest such distance, if that is an outlier; abstains without metrics."""
    metrics = reader.list_metrics()
    if not metrics:
        return Diagnosis(fault=False, ranked=(), abstain=True, reason="no metrics in this tier")
    story = Story(reader, vocabulary)
    found = [
        (distance, one.metric, sample)
        for one in metrics
        for samples in [reader.query_metric(one.metric)]
        for role in set(vocabulary.roles.values())
        for distance, sample in _outliers(samples, set(vocabulary.of_role(role)), story.ending_s)
    ]
    distance, metric, sample = max(found, key=lambda one: one[0], default=(0.0, "", None))
    if sample is None or distance < OUTLIER:
        return Diagnosis(fault=False, ranked=(), reason="no worker is unlike its peers")
    stage = sample.stage or story.at(sample.time_s)[0]
    ranked = causes([sample.subject], stage, metric_kinds(metric, vocabulary))
    return Diagnosis(
        fault=True, ranked=ranked, reason=f"{metric} of {sample.subject}: {distance:.0f} deviations from its peers"
    )


def _outliers(samples: list[Sample], peers: set[str], ending_s: float) -> list[tuple[float, Sample]]:
    """(distance, sample) of every worker's samples until the job's ending; nothing for a role of one."""
    series: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.subject in peers and sample.value is not None and sample.time_s < ending_s:
            series[sample.subject].append(sample)
    if len(series) < 2:
        return []
    far = {who: _distances(own) for who, own in series.items()}
    times = {who: [sample.time_s for sample in own] for who, own in series.items()}
    found = []
    for who, own in series.items():
        others = [(times[name], far[name]) for name in series if name != who]
        for index in range(1, len(own)):
            calm = median(_nearest(other, distances, own[index].time_s) for other, distances in others)
            found.append((min(far[who][index - 1 : index + 1]) - calm, own[index]))
    return found


def _distances(samples: list[Sample]) -> list[float]:
    """Robust z of each sample among all of its series; a twentieth of the usual value counts as no change."""
    values = _values(samples)
    usual = median(values)
    scale = max(SCALE * median(abs(value - usual) for value in values), 0.05 * abs(usual))
    return [abs(value - usual) / scale if scale else 0.0 for value in values]


def _nearest(times: list[float], distances: list[float], time_s: float) -> float:
    """The larger distance of the two samples around a time."""
    place = bisect_left(times, time_s)
    return max(distances[max(0, place - 1) : place + 1])


def _values(samples: list[Sample]) -> list[float]:
    return [sample.value for sample in samples if sample.value is not None]
