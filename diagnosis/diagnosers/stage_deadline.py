"""``stage-deadline``: the first stage that took longer than a healthy one would, long before any time-out.

The bound is the upper prediction bound of a normal model of log seconds, from the same stage in other steps and, where the tier
has them, in healthy runs. A stage that cost less
than a step is never over it. That tells where and since when the job hung; who hung is guessed from whose work is missing.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from math import exp, log, sqrt
from statistics import NormalDist, fmean, stdev

from diagnosis.clues import causes
from diagnosis.reader import Reader
from diagnosis.story import Opening, Story
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis

#: One false alarm in so many stages.
QUANTILE = NormalDist().inv_cdf(1 - 1 / 10_000)
#: Log seconds: no stage's time is known better than by a third.
LEAST_SPREAD = 0.3
ROLES = {"weights_update": "train", "rollout": "rollout", "reference": "reference", "train": "train", "checkpoint": "train"}
KINDS = ("process-pause", "network-bandwidth", "network-delay", "cpu-contention", "network-partition")

Spans = dict[str, list[tuple[float, Opening]]]


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the role of the first stage over its deadline, the worker with least work in it first; else nothing is wrong."""
    story = Story(reader, vocabulary)
    healthy = [_spans(Story(reader, vocabulary, run)) for run in reader.healthy_runs()]
    late = [
        (opening.time_s + bound, opening)
        for what, found in _spans(story).items()
        for index, (took, opening) in enumerate(found)
        for bound in [max(story.step_s, _bound([t for i, (t, _) in enumerate(found) if i != index] + _times(healthy, what)))]
        if took > bound
    ]
    if not late:
        return Diagnosis(fault=False, ranked=(), reason="no stage was over its deadline")
    alarm_s, opening = min(late, key=lambda one: one[0])
    done = [work.component for work in story.works if work.step == opening.step and work.stage == opening.stage]
    suspects = sorted(vocabulary.of_role(ROLES.get(opening.stage, "controller")), key=done.count)
    kinds = [kind for kind in KINDS if kind in vocabulary.kinds]
    alarm = datetime.fromtimestamp(alarm_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    reason = f"{opening.event or opening.stage} of step {opening.step} was over its deadline"
    return Diagnosis(fault=True, ranked=causes(suspects, opening.stage, kinds), reason=reason, alarm=alarm)


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
