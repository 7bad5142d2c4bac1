"""``baro-two-sided``: BARO's robust z of each column, of falls as well as of rises. From T2 up.

The published method (``rcaeval-baro``) takes the largest z, and no column that is constant since the alarm, so it sees only
what grows. But a job that hangs falls silent: its share of a core, its traffic and its throughput go to nothing and stay there.
This is our variant, under a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import quantiles

from diagnosis.columnwise import Asked, diagnose_by
from diagnosis.reader import Reader
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis

#: Memory is in bytes, and the published method counts it in megabytes.
MEGA = 1e6


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the service with the largest distance from its median, in interquartile ranges, after the first alarm."""
    return diagnose_by(ranking, reader, vocabulary)


def ranking(asked: Asked, size: Callable[[float], float] = abs, *, still: bool = True) -> list[str]:
    """Columns by their largest ``size`` of a robust z, the worst first; as published with ``float`` and without ``still`` ones.

    A column that does not vary before the alarm is left out; ``still``: one that does not vary since then is not. Raises
    ValueError when that leaves none.
    """
    found = {}
    for name, values in asked.columns.items():
        before, after = values[: asked.row], values[asked.row :]
        if len(set(before)) > 1 and (still or len(set(after)) > 1):
            found[name] = max(map(size, robust_z(before, after, MEGA if name.endswith("_mem") else 1.0)))
    if not found:
        raise ValueError("no column varies before the alarm")
    return sorted(found, key=lambda name: -found[name])


def robust_z(before: list[float], after: list[float], unit: float) -> list[float]:
    """Distances from the median before, in interquartile ranges; in units where most of what was before is the same."""
    low, middle, high = quantiles(before, n=4, method="inclusive")
    return [(value - middle) / ((high - low) or unit) for value in after]
