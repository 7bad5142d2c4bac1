"""What is normal: per stage, metric and role, the range of healthy values over several baseline runs.

Two ranges are told. ``mean ± 2 sd`` is what people expect and too narrow for few samples (with n = 5 it lets 14 % of healthy
values out). The t prediction interval ``mean ± t(.975, n-1) · sd · sqrt(1 + 1/n)`` holds one further healthy value with
probability 0.95 at every n, if values are independent and roughly normal. Steps of one run are not quite independent, so
``runs`` is told beside ``n``: trust a band of many steps of one run less than one of as many steps of several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storage.catalogue import query
from storage.intervals import t_prediction, two_sigma


@dataclass(frozen=True)
class Band:
    """Healthy values of one metric, all in ``unit``. ``n`` samples from ``runs`` runs; ``sd`` has n-1 in its denominator.

    With a single sample sd and all four ends are NaN: nothing can be told from it.
    """

    stage: str
    metric: str
    role: str
    unit: str
    n: int
    runs: int
    mean: float
    sd: float
    lo2s: float
    hi2s: float
    lo_t: float
    hi_t: float


def baseline_bands(run_ids: Sequence[str], warmup_steps: int = 2) -> list[Band]:
    """Bands of everything the runs measured per step, without each run's first ``warmup_steps`` steps.

    Samples that belong to no step (the sampler's) and missed ones take no part. Sorted by stage, metric, role.
    """
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps is {warmup_steps}; at least 0")
    return [
        band(stage, metric, role, unit, values, runs)
        for stage, metric, role, unit, runs, values in query(_SAMPLES, run_ids, {"warmup": warmup_steps}).rows
    ]


def band(stage: str, metric: str, role: str, unit: str, values: Sequence[float], runs: int) -> Band:
    """The band of healthy ``values`` (at least one, finite)."""
    sample = np.asarray(values, dtype=np.float64)
    n = len(sample)
    mean = float(sample.mean())
    sd = float(sample.std(ddof=1)) if n > 1 else math.nan
    nothing = (math.nan, math.nan)
    ends = (*two_sigma(values), *t_prediction(values)) if n > 1 else (*nothing, *nothing)
    return Band(stage, metric, role, unit, n, runs, mean, sd, *ends)


_SAMPLES = """
WITH stepped AS (
    SELECT *, min(step) OVER (PARTITION BY run_id) AS first_step
    FROM metrics WHERE step >= 0
)
SELECT coalesce(stage, '') AS stage, metric, regexp_replace(component, '[0-9]+$', '') AS role, any_value(unit) AS unit,
       count(DISTINCT run_id) AS runs, list(value ORDER BY run_id, component, step) AS sample
FROM stepped
WHERE step >= first_step + $warmup AND value IS NOT NULL AND isfinite(value)
GROUP BY ALL ORDER BY ALL
"""
