"""Two diagnosers, or two tiers, on the same cases: paired differences, exact tests, and a correction for many of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, wilcoxon

from diagnosis.intervals import clustered


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact p: how likely so uneven a split of the cases that only one of the two had right. 1 without any."""
    pairs = list(zip(first, second, strict=True))
    only_first = sum(one and not two for one, two in pairs)
    discordant = sum(one != two for one, two in pairs)
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def signed_rank(first: Sequence[float], second: Sequence[float]) -> float:
    """Wilcoxon's two-sided p of paired figures; 1 when no pair differs."""
    differences = np.subtract(first, second)
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p of each test by Holm's step-down: sorted, times the number of tests left, never below the one before."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.asarray(p, float)[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def compared(names: tuple[str, str], cases: Sequence[tuple[Hashable, bool, bool]]) -> dict[str, Any]:
    """One comparison: cases are (cluster, first right, second right). Difference of shares with its clustered interval."""
    clusters, first, second = zip(*cases, strict=True)
    differences = [float(one) - float(two) for one, two in zip(first, second, strict=True)]
    return {
        "first": names[0],
        "second": names[1],
        "n": len(cases),
        "only_first": sum(d > 0 for d in differences),
        "only_second": sum(d < 0 for d in differences),
        "difference": float(np.mean(differences)),
        "interval": clustered(differences, clusters),
        "p": mcnemar(first, second),
    }


def with_holm(comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with ``p_holm`` over all of them together."""
    adjusted = holm([one["p"] for one in comparisons])
    return [{**one, "p_holm": p} for one, p in zip(comparisons, adjusted, strict=True)]
