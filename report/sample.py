"""One number of a run, and what it may be compared with. Light to import: reading a run needs no statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from report.outcome import role_of

#: Stage, metric, role: what must be equal for two samples to be of one kind.
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Sample:
    """One number of a run: `value` in `unit` of `metric`, by `component` in `stage` of `step`."""

    stage: str
    metric: str
    unit: str
    component: str
    step: int
    value: float

    @property
    def key(self) -> Key:
        """What its band is found by."""
        return (self.stage, self.metric, role_of(self.component))


def samples_of(rows: Iterable[Mapping[str, Any]]) -> list[Sample]:
    """The finite numbers among the rows of a metrics table; missed samples (null) are left out, never filled in."""
    return [
        Sample(row["stage"] or "", row["metric"], row["unit"] or "", row["component"], int(row["step"]), float(row["value"]))
        for row in rows
        if row["value"] is not None and math.isfinite(row["value"])
    ]
