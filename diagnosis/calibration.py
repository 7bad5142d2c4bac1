"""How far a diagnoser's confidence may be believed: Brier score, expected calibration error, area under risk and coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 5
#: Below this many answers bins say nothing.
BINNED_FROM = 50


def calibration(confidence: Sequence[float], right: Sequence[bool]) -> dict[str, Any]:
    """``n``, ``brier``, ``ece`` (None below 50 answers) and ``aurc`` of answers that told a confidence; None without any."""
    told, hit = np.asarray(confidence, float), np.asarray(right, float)
    if not len(told):
        return {"n": 0, "brier": None, "ece": None, "aurc": None}
    return {
        "n": len(told),
        "brier": float(np.mean((told - hit) ** 2)),
        "ece": expected_error(told, hit) if len(told) >= BINNED_FROM else None,
        "aurc": risk_coverage(told, hit),
    }


def expected_error(told: np.ndarray, hit: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over five bins of equal mass, weighted by their answers."""
    order = np.argsort(told, kind="stable")
    bins = np.array_split(order, BINS)
    gaps = [abs(told[members].mean() - hit[members].mean()) * len(members) for members in bins if len(members)]
    return float(sum(gaps) / len(told))


def risk_coverage(told: np.ndarray, hit: np.ndarray) -> float:
    """Mean over coverages of the share wrong among the most confident; answers of equal confidence count alike."""
    wrong = np.array([1 - hit[told == level].mean() for level in told])
    sorted_wrong = wrong[np.argsort(-told, kind="stable")]
    return float(np.mean(np.cumsum(sorted_wrong) / np.arange(1, len(told) + 1)))
