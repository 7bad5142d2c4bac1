"""Time to a right diagnosis, when some never came: Kaplan-Meier, its median and restricted mean, and the penalised mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import CensoredData, ecdf


def time_to_diagnose(times_s: Sequence[float], right: Sequence[bool], budget_s: float) -> dict[str, Any]:
    """``n``, ``right``, ``median_s`` (None when half were never right), ``restricted_mean_s`` and ``penalised_mean_s``.

    A wrong or missing answer is censored when it was given: by then the right one had not come. The restricted mean is the
    area under the survival function up to the budget; the penalised mean takes the whole budget for every wrong answer.
    """
    times, hits = np.minimum(np.asarray(times_s, float), budget_s), np.asarray(right, bool)
    if not len(times):
        return {"n": 0, "right": 0, "median_s": None, "restricted_mean_s": None, "penalised_mean_s": None}
    moments, surviving = survival(times, hits)
    half = moments[surviving <= 0.5 + 1e-12]
    return {
        "n": len(times),
        "right": int(hits.sum()),
        "median_s": float(half[0]) if len(half) else None,
        "restricted_mean_s": restricted_mean(moments, surviving, budget_s),
        "penalised_mean_s": float(np.where(hits, times, budget_s).mean()),
    }


def survival(times: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan-Meier: (times, share still without a right diagnosis after each)."""
    if not hits.any():
        return np.unique(times), np.ones(len(np.unique(times)))
    found = ecdf(CensoredData(uncensored=times[hits], right=times[~hits])).sf
    return found.quantiles, found.probabilities


def restricted_mean(moments: np.ndarray, surviving: np.ndarray, budget_s: float) -> float:
    """Area under the step function from 0 to the budget, seconds."""
    edges = np.concatenate([[0.0], moments, [budget_s]])
    heights = np.concatenate([[1.0], surviving])
    return float(np.sum(np.diff(edges) * heights))
