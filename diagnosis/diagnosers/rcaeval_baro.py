"""``rcaeval-baro``: BARO as RCAEval has it, the largest robust z of each column after the first alarm. From T2 up.

It sees what grows, and nothing that falls (`baro-two-sided` does).
"""

from __future__ import annotations

from diagnosis.columnwise import diagnose_by
from diagnosis.rcaeval import ranks_of
from diagnosis.reader import Reader
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the service of the method's first column. Raises UnrankedError where the method fails."""
    from RCAEval.e2e.baro import baro

    return diagnose_by(ranks_of(baro), reader, vocabulary)
