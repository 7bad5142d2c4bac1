"""``baro-two-sided``: BARO's robust z of each column, and of falls as well as of rises. From T2 up.

The published method (``rcaeval-baro``) takes the largest z and so sees only what grows, but a job that hangs falls silent:
its share of a core, its traffic and its throughput go to nothing. This is our variant, under a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median, quantiles

from diagnosis.columnwise import Asked, diagnose_by
from diagnosis.reader import Reader
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the service with the largest distance from its median, in interquartile ranges, after the first alarm."""
    return diagnose_by(ranking, reader, vocabulary)


def ranking(asked: Asked, size: Callable[[float], float] = abs) -> list[str]:
    """Columns by their largest ``size`` of a robust z, the worst first.

    As in the published method, a column that does not vary before, or does not vary after, is left out. Raises ValueError when
    that leaves none.
    """
    found = {}
    for name, values in asked.columns.items():
        before, after = values[: asked.row], values[asked.row :]
        if len(set(before)) > 1 and len(set(after)) > 1:
            low, _, high = quantiles(before, n=4, method="inclusive")
            found[name] = max(size((value - median(before)) / ((high - low) or 1.0)) for value in after)
    if not found:
        raise ValueError("no column varies both before and after the alarm")
    return sorted(found, key=lambda name: -found[name])
