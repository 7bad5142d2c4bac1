"""``random``: one uniform draw over components, stages and kinds, seeded by the case. The floor for all others."""

from __future__ import annotations

import random
from itertools import product

from diagnosis.reader import EvidenceReader
from diagnosis.vocabulary import Vocabulary
from storage.records import Cause, Diagnosis

RANKED = 10


def diagnose(_reader: EvidenceReader, vocabulary: Vocabulary) -> Diagnosis:
    """Ten different causes in random order, the same for the same case; reads no evidence and always blames somebody."""
    space = list(product(vocabulary.components, vocabulary.stages, vocabulary.kinds))
    # Not for secrecy: the same case must give the same guess.
    draw = random.Random(vocabulary.case_id).sample(space, min(RANKED, len(space)))  # noqa: S311
    ranked = tuple(Cause(*cause) for cause in draw)
    return Diagnosis(fault=True, ranked=ranked, confidence=1 / len(space), reason="a uniform guess")
