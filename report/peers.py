"""Which workers were unlike all others of their role, at the same step: no healthy run is needed to say so.

A worker counts as unlike where it is so in two steps in a row, by a p corrected for all that was asked of each step: by that
rule 40 steps of healthy runs raised no alarm (docs/metrics.md). How many ill workers it finds was not measured.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from report.movement import false_discovery
from storage.peers import LEAST, peer_p_values

LEVEL = 0.05
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Unlike:
    """A figure of a worker in the last of some steps in a row in which it was unlike its peers', and their mean there."""

    component: str
    stage: str
    metric: str
    unit: str
    first_step: int
    last_step: int
    value: float
    peers_mean: float


def unlike_peers(rows: Iterable[Record]) -> list[Unlike] | None:
    """By component and step, from metric rows. None: no role has workers enough (`LEAST`) that told the same of one step."""
    asked = list(_asked(rows))
    alarms: dict[tuple[str, What], dict[int, _Asked]] = defaultdict(dict)
    for step in {one.step for one in asked}:
        of_step = [one for one in asked if one.step == step]
        for one, q in zip(of_step, false_discovery([one.p for one in of_step]), strict=True):
            if q <= LEVEL:
                alarms[one.worker, one.what][step] = one
    found = []
    for (worker, what), by_step in alarms.items():
        for first, last in _in_a_row(sorted(by_step)):
            if last > first:
                found.append(Unlike(worker, *what, first, last, by_step[last].value, by_step[last].peers_mean))
    return sorted(found, key=lambda one: (one.component, one.first_step, one.metric)) if asked else None


def told_peers(found: list[Record] | None) -> str:
    """What `faultline show` has of them, in one line."""
    if found is None:
        return f"cannot tell: no role has {LEAST} workers"
    told = (
        "{component} {metric} {value:.3g} {unit} in steps {first_step} to {last_step}, the others {peers_mean:.3g}".format(
            **one
        )
        for one in found
    )
    return "; ".join(told) or "no worker was unlike the others of its role in two steps in a row"


#: Stage, metric, unit.
What = tuple[str, str, str]


class _Asked(NamedTuple):
    step: int
    worker: str
    what: What
    p: float
    value: float
    peers_mean: float


def _asked(rows: Iterable[Record]) -> Iterator[_Asked]:
    """Every figure that workers enough told, with its p by those of the others."""
    told: dict[tuple[int, str, What], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["step"] is not None and row["step"] >= 0 and row["value"] is not None and math.isfinite(row["value"]):
            worker, what = str(row["component"]), (row["stage"] or "", str(row["metric"]), row["unit"] or "")
            told[int(row["step"]), worker.rstrip("0123456789"), what][worker].append(float(row["value"]))
    for (step, _, what), workers in told.items():
        means = {worker: fmean(values) for worker, values in workers.items()}
        for worker, p in peer_p_values(means).items():
            rest = fmean(mean for other, mean in means.items() if other != worker)
            yield _Asked(step, worker, what, p, means[worker], rest)


def _in_a_row(steps: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each stretch without a gap."""
    starts = [step for step in steps if step - 1 not in steps]
    ends = [step for step in steps if step + 1 not in steps]
    return list(zip(starts, ends, strict=True))
