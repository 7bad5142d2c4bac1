"""``rcaeval-circa``: CIRCA as RCAEval has it: a causal graph of the columns, then the worst residual given the causes.

From T2 up. Its windows count rows: 111 before the alarm, and the ten that end 300 after it; a job that ended sooner is held at
its last row.
"""

from __future__ import annotations

from diagnosis.columnwise import diagnose_by
from diagnosis.rcaeval import ranks_of
from diagnosis.reader import Reader
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the service of the method's first column. Raises UnrankedError where the method fails."""
    from RCAEval.e2e.circa import circa

    return diagnose_by(ranks_of(circa, graph=True), reader, vocabulary)
