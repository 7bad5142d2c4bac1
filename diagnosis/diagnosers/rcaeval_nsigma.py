"""``rcaeval-nsigma``: the largest z of each column after the first alarm, as RCAEval has it. From T2 up."""

from __future__ import annotations

from diagnosis.columnwise import diagnose_by
from diagnosis.rcaeval import ranks_of
from diagnosis.reader import Reader
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the service of the method's first column. Raises UnrankedError where the method fails."""
    from RCAEval.e2e import nsigma

    return diagnose_by(ranks_of(nsigma), reader, vocabulary)
