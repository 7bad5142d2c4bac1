"""Which stage was blamed for which: rows are true stages, columns what was answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from report.case import Case
from report.verdicts import verdicts

NO_STAGE = "no answer"


@dataclass(frozen=True)
class Confusion:
    """Counts of one diagnoser. `columns` are the stages answered by it or true in some case, plus "no answer"."""

    who: str
    n: int
    stages: tuple[str, ...]
    columns: tuple[str, ...]
    counts: dict[tuple[str, str], int]

    def weight(self, true: str, answered: str) -> float:
        """Share of a row, 0 to 1."""
        total = sum(self.counts.get((true, column), 0) for column in self.columns)
        return self.counts.get((true, answered), 0) / total if total else 0.0


def confusion(cases: Sequence[Case], who: str) -> Confusion:
    """The table of one diagnoser and tier over the valid fault cases among `cases`."""
    pairs: Counter[tuple[str, str]] = Counter()
    for case in cases:
        root = case.outcome["root"]
        if root and case.outcome["valid"]:
            pairs.update((root["stage"], one.stage or NO_STAGE) for one in verdicts(case) if one.who == who)
    stages = tuple(sorted({true for true, _ in pairs}))
    columns = tuple(sorted({answer for _, answer in pairs} | set(stages), key=lambda stage: (stage == NO_STAGE, stage)))
    return Confusion(who, sum(pairs.values()), stages, columns, dict(pairs))
