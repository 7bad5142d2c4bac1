"""``worst-z``: the one figure that is furthest from its healthy mean, in standard deviations. From T2 up.

Healthy figures are pooled by metric and role over the healthy runs. How far is far is told by those runs themselves: the worst
figure of each against the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import sqrt

from diagnosis.clues import causes, metric_kinds
from diagnosis.reader import Reader, Sample
from diagnosis.story import Story
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis

#: With a single healthy run there is nothing to tell how far is far.
LEAST_RUNS = 2
Figures = dict[str, list[Sample]]
Bands = dict[tuple[str, str], tuple[float, float]]


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the component of the worst figure where it is worse than any of a healthy run; abstains without healthy runs."""
    healthy = [_figures(reader, run) for run in reader.healthy_runs()]
    if len(healthy) < LEAST_RUNS:
        return Diagnosis(fault=False, ranked=(), abstain=True, reason="fewer than two healthy runs to compare with")
    usual = max(_worst(one, _bands([h for h in healthy if h is not one], vocabulary), vocabulary)[0] for one in healthy)
    z, metric, sample = _worst(_figures(reader, ""), _bands(healthy, vocabulary), vocabulary)
    if sample is None or z <= usual:
        return Diagnosis(fault=False, ranked=(), reason=f"no figure is further off than in healthy runs ({usual:.0f} sigma)")
    stage = sample.stage or Story(reader, vocabulary).at(sample.time_s)[0]
    who = sample.subject.partition(">")[0]
    suspects = [who] if who in vocabulary.roles else list(vocabulary.components)
    ranked = causes(suspects, stage, metric_kinds(metric, vocabulary))
    return Diagnosis(fault=True, ranked=ranked, reason=f"{metric} of {sample.subject} is {z:.0f} sigma off")


def _figures(reader: Reader, run: str) -> Figures:
    return {one.metric: reader.query_metric(one.metric, run=run) for one in reader.list_metrics(run)}


def _bands(runs: Iterable[Figures], vocabulary: Vocabulary) -> Bands:
    """(metric, role) -> (mean, standard deviation) of the healthy figures; those that never differ are left out."""
    pooled: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in runs:
        for metric, samples in run.items():
            for sample in samples:
                if sample.value is not None:
                    pooled[metric, _role(sample, vocabulary)].append(sample.value)
    spreads = {key: _spread(values) for key, values in pooled.items()}
    return {key: band for key, band in spreads.items() if band[1] > 0}


def _spread(values: list[float]) -> tuple[float, float]:
    """(mean, standard deviation)."""
    mean = sum(values) / len(values)
    return mean, sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def _worst(run: Figures, bands: Bands, vocabulary: Vocabulary) -> tuple[float, str, Sample | None]:
    worst: tuple[float, str, Sample | None] = (0.0, "", None)
    for metric, samples in run.items():
        for sample in samples:
            mean, deviation = bands.get((metric, _role(sample, vocabulary)), (0.0, 0.0))
            if deviation and sample.value is not None and abs(sample.value - mean) / deviation > worst[0]:
                worst = (abs(sample.value - mean) / deviation, metric, sample)
    return worst


def _role(sample: Sample, vocabulary: Vocabulary) -> str:
    """The roles in a subject: a component's, or those of both ends of a link."""
    ends = sample.subject.partition(":")[0].split(">")
    return ">".join(vocabulary.roles.get(end, end) for end in ends)
