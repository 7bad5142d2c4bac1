"""``prior-only``: what ends such jobs most often elsewhere, without a look at this one.

Skill beyond chance here means that cases can be guessed.
By published counts of interrupted training runs most end by a lost process or device of a train worker, during training.
"""

from __future__ import annotations

from diagnosis.clues import causes
from diagnosis.reader import Reader
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis

ROLES = ("train", "rollout", "metaserver", "controller")
STAGES = ("train", "rollout", "weights_update", "checkpoint")
KINDS = ("process-kill", "memory-pressure", "process-pause", "network-delay", "disk-fill")


def diagnose(_reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """The same ranking for every job of the same shape; always blames somebody."""
    suspects = [name for role in ROLES for name in vocabulary.of_role(role)]
    kinds = [kind for kind in KINDS if kind in vocabulary.kinds]
    ranked = [cause for stage in STAGES for cause in causes(suspects, stage, kinds)]
    return Diagnosis(fault=True, ranked=tuple(ranked), reason="what ends such jobs most often")
