"""``stage-deadline``: the first stage that took longer than a healthy one would, long before any time-out.

That tells where and since when the job hung (`diagnosis.deadlines`); who hung is guessed from whose work is missing.
"""

from __future__ import annotations

from datetime import UTC, datetime

from diagnosis.clues import causes
from diagnosis.deadlines import overdue
from diagnosis.reader import Reader
from diagnosis.story import Story
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis

ROLES = {"weights_update": "train", "rollout": "rollout", "reference": "reference", "train": "train", "checkpoint": "train"}
KINDS = ("process-pause", "network-bandwidth", "network-delay", "cpu-contention", "network-partition")


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the role of the first stage over its deadline, the worker with least work in it first; else nothing is wrong."""
    story = Story(reader, vocabulary)
    late = overdue(story, [Story(reader, vocabulary, run) for run in reader.healthy_runs()])
    if not late:
        return Diagnosis(fault=False, ranked=(), reason="no stage was over its deadline")
    alarm_s, opening = min(late, key=lambda one: one[0])
    done = [work.component for work in story.works if work.step == opening.step and work.stage == opening.stage]
    suspects = sorted(vocabulary.of_role(ROLES.get(opening.stage, "controller")), key=done.count)
    kinds = [kind for kind in KINDS if kind in vocabulary.kinds]
    alarm = datetime.fromtimestamp(alarm_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    reason = f"{opening.event or opening.stage} of step {opening.step} was over its deadline"
    return Diagnosis(fault=True, ranked=causes(suspects, opening.stage, kinds), reason=reason, alarm=alarm)
