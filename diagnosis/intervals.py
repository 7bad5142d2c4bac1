"""95 % intervals: of a share of independent cases, and of a mean over cases that come in clusters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.stats import binomtest, bootstrap

RESAMPLES = 10_000


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion; (0, 1) when nothing was observed."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def clustered(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float] | None:
    """95 % percentile bootstrap of the mean, drawing whole clusters: repeats of one scenario are not independent.

    None with fewer than two clusters: then nothing is known of how they differ. The draws are the same every time.
    """
    names = sorted(set(clusters), key=str)
    if len(names) < 2:
        return None
    place = {name: index for index, name in enumerate(names)}
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for value, cluster in zip(values, clusters, strict=True):
        sums[place[cluster]] += value
        counts[place[cluster]] += 1

    def mean(of: np.ndarray, n: np.ndarray, axis: int) -> np.ndarray:
        ratio: np.ndarray = of.sum(axis=axis) / n.sum(axis=axis)
        return ratio

    found = bootstrap(
        (sums, counts),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
