"""How often healthy runs raise an alarm: ``python -m bench.alarms RUN... [--warmup 2]``. Prints one JSON object.

*bands*: each run in turn is held out, and each of its values gets a p by the others' values of the same stage, metric and role.
*peers*: each worker gets a p by the other workers of its role at the same step of the same run (four of them at least).
Then the rules: each value alone, corrected for all values of its step (Bonferroni; Benjamini-Hochberg) or of its run, and the
same alarm in two steps in a row. Of each: the share of values, of steps and of runs with an alarm that should have none.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from report.movement import false_discovery
from storage.catalogue import query
from storage.intervals import p_values
from storage.peers import lasts, peer_p_values

LEVEL = 0.05

_VALUES = """
WITH stepped AS (SELECT *, min(step) OVER (PARTITION BY run_id) AS first_step FROM metrics WHERE step >= 0)
SELECT run_id, step, component, coalesce(stage, '') || ' ' || metric, avg(value)
FROM stepped WHERE step >= first_step + $warmup AND isfinite(value) GROUP BY ALL ORDER BY ALL
"""


class Value(NamedTuple):
    """One figure: the mean of what a component told of one metric in one step."""

    run: str
    step: int
    component: str
    metric: str
    value: float

    @property
    def role(self) -> str:
        return self.component.rstrip("0123456789")


Judged = Mapping[Value, float]
Rule = Callable[[Sequence[float]], list[bool]]


def alone(ps: Sequence[float]) -> list[bool]:
    return [p <= LEVEL for p in ps]


def bonferroni(ps: Sequence[float]) -> list[bool]:
    return [p <= LEVEL / len(ps) for p in ps]


def benjamini_hochberg(ps: Sequence[float]) -> list[bool]:
    return [q <= LEVEL for q in false_discovery(ps)]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("runs", nargs="+")
    options.add_argument("--warmup", type=int, default=2)
    given = options.parse_args()
    values = [Value(*row) for row in query(_VALUES, given.runs, {"warmup": given.warmup}).rows]
    told = {"bands": rates(dict(by_bands(values))), "peers": rates(dict(by_peers(values)))}
    print(json.dumps({"runs": len(given.runs), **told}, indent=2))


def by_bands(values: Sequence[Value]) -> Iterator[tuple[Value, float]]:
    """Each value's p by those of the other runs. What does not vary among those takes no part."""
    series: dict[tuple[str, str], list[Value]] = defaultdict(list)
    for one in values:
        series[one.metric, one.role].append(one)
    for alike in series.values():
        for run in sorted({one.run for one in alike}):
            mine = [one for one in alike if one.run == run]
            rest = [one.value for one in alike if one.run != run]
            if len(set(rest)) > 1:
                yield from zip(mine, p_values([one.value for one in mine], rest), strict=True)


def by_peers(values: Sequence[Value]) -> Iterator[tuple[Value, float]]:
    """Each value's p by those of its fellows."""
    fellows: dict[tuple[str, int, str, str], dict[str, Value]] = defaultdict(dict)
    for one in values:
        fellows[one.run, one.step, one.metric, one.role][one.component] = one
    for alike in fellows.values():
        for component, p in peer_p_values({name: one.value for name, one in alike.items()}).items():
            yield alike[component], p


def rates(judged: Judged) -> dict[str, dict[str, float]]:
    """False alarms of each rule."""
    step, run = (lambda one: (one.run, one.step)), (lambda one: (one.run,))
    rules: dict[str, tuple[Rule, Callable[[Value], tuple[object, ...]]]] = {
        "each value alone": (alone, step),
        "Bonferroni within a step": (bonferroni, step),
        "Benjamini-Hochberg within a step": (benjamini_hochberg, step),
        "Benjamini-Hochberg within a run": (benjamini_hochberg, run),
    }
    told = {}
    for name, (rule, family) in rules.items():
        alarms = alarms_of(judged, rule, family)
        told[name] = shares(alarms)
        told[f"{name}, two steps in a row"] = shares(repeated(alarms))
    return told


def alarms_of(judged: Judged, rule: Rule, family: Callable[[Value], tuple[object, ...]]) -> dict[Value, bool]:
    """Alarms, where all values of a family are one question."""
    families: dict[tuple[object, ...], list[Value]] = defaultdict(list)
    for one in judged:
        families[family(one)].append(one)
    return {
        one: alarm
        for members in families.values()
        for one, alarm in zip(members, rule([judged[one] for one in members]), strict=True)
    }


def repeated(alarms: Mapping[Value, bool]) -> dict[Value, bool]:
    """Those alarms that the same component had of the same metric in the step before, too."""
    raised = {one[:4] for one, alarm in alarms.items() if alarm}
    return {
        one: lasts([(one.run, one.step - 1, one.component, one.metric) in raised, alarm], 2, 2) for one, alarm in alarms.items()
    }


def shares(alarms: Mapping[Value, bool]) -> dict[str, float]:
    """Values, steps and runs asked, and the share of each with an alarm."""
    told: dict[str, float] = {}
    for what, key in (("values", lambda one: one), ("steps", lambda one: one[:2]), ("runs", lambda one: one.run)):
        asked, false = {key(one) for one in alarms}, {key(one) for one, alarm in alarms.items() if alarm}
        told |= {what: len(asked), f"{what}_share": round(len(false) / max(1, len(asked)), 4)}
    return told


if __name__ == "__main__":
    main()
