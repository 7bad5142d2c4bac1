"""How often healthy values leave healthy bands: ``python -m bench.bands RUN... [--warmup 2]``. Prints one JSON object.

Each run in turn is held out; bands are made of the others, per stage, metric and role, and the held-out run's values are asked
whether they are inside. ``steps`` makes a band of all steps of the other runs, ``means`` of one mean a run (as many values as
runs, and asks for the mean of the one held out). A metric whose healthy values do not vary has no band and takes no part.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from storage.catalogue import query
from storage.intervals import INTERVALS

_VALUES = """
WITH stepped AS (SELECT *, min(step) OVER (PARTITION BY run_id) AS first_step FROM metrics WHERE step >= 0)
SELECT run_id, coalesce(stage, '') AS stage, metric, regexp_replace(component, '[0-9]+$', '') AS role, list(value)
FROM stepped WHERE step >= first_step + $warmup AND isfinite(value) GROUP BY ALL ORDER BY ALL
"""
Values = Mapping[tuple[str, str, str], Mapping[str, Sequence[float]]]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("runs", nargs="+")
    options.add_argument("--warmup", type=int, default=2)
    given = options.parse_args()
    values: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(dict)
    for run, stage, metric, role, sample in query(_VALUES, given.runs, {"warmup": given.warmup}).rows:
        values[stage, metric, role][run] = sample
    means = {key: {run: [fmean(sample)] for run, sample in runs.items()} for key, runs in values.items()}
    print(json.dumps({"runs": len(given.runs), "steps": false_alarms(values), "means": false_alarms(means)}, indent=2))


def false_alarms(values: Values) -> dict[str, dict[str, float]]:
    """Per kind of interval: values asked, those outside, and their share, all metrics and held-out runs together."""
    outside = dict.fromkeys(INTERVALS, 0)
    asked = 0
    for runs in values.values():
        for held_out, sample in runs.items():
            rest = [value for run, others in runs.items() if run != held_out for value in others]
            if len(rest) < 2 or len(set(rest)) == 1:
                continue
            asked += len(sample)
            for name, interval in INTERVALS.items():
                low, high = interval(rest)
                outside[name] += sum(not low <= value <= high for value in sample)
    return {
        name: {"asked": asked, "outside": count, "share": round(count / max(1, asked), 4)} for name, count in outside.items()
    }


if __name__ == "__main__":
    main()
