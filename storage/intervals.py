"""Ranges that one further healthy value is expected in, from few values: what people use, and what holds.

Each takes at least two finite values and returns (low, high) in their unit. ``coverage`` is what a prediction interval promises
if values are independent and of the shape that it names; what each keeps on real runs is measured by ``bench/bands.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from scipy import stats

COVERAGE = 0.95
#: The median distance from the median, in sd of a normal distribution.
_MAD_SD = 1.4826

Interval = tuple[float, float]


def two_sigma(values: Sequence[float]) -> Interval:
    """Mean ± 2 sd (n-1 in the denominator): too narrow for few values, 14 % of normal ones lie outside with n = 5."""
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    return mean - 2 * sd, mean + 2 * sd


def t_prediction(values: Sequence[float], coverage: float = COVERAGE) -> Interval:
    """Mean ± t · sd · sqrt(1 + 1/n): right at every n for normal values."""
    mean, reach = float(np.mean(values)), prediction_factor(len(values), coverage) * float(np.std(values, ddof=1))
    return mean - reach, mean + reach


def log_t_prediction(values: Sequence[float], coverage: float = COVERAGE) -> Interval:
    """The same on logarithms, for times, which are skewed; values that are not all above zero are taken as they are."""
    if min(values) <= 0:
        return t_prediction(values, coverage)
    low, high = t_prediction([math.log(value) for value in values], coverage)
    return math.exp(low), math.exp(high)


def robust(values: Sequence[float], coverage: float = COVERAGE) -> Interval:
    """Median ± the same factor · 1.4826 MAD: one wild value among the healthy ones does not widen it.

    Too narrow for few values: with n = 5 it lets 17 % of log-normal ones out.
    """
    middle = float(np.median(values))
    reach = prediction_factor(len(values), coverage) * _MAD_SD * float(np.median(np.abs(np.asarray(values) - middle)))
    return middle - reach, middle + reach


def p_values(further: Sequence[float], values: Sequence[float]) -> list[float]:
    """Of each further value, how likely one so far out is among healthy ones: 0.05 at the ends of `log_t_prediction`.

    Where the values do not vary: 1 for one like them, 0 for any other.
    """
    if min(values) > 0:
        further, values = list(np.log(np.maximum(further, np.finfo(float).tiny))), list(np.log(values))
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    if sd <= 1e-9 * abs(mean):
        return [float(math.isclose(value, mean, rel_tol=1e-9)) for value in further]
    distance = np.abs(np.asarray(further) - mean) / (sd * math.sqrt(1 + 1 / len(values)))
    return [float(p) for p in 2 * stats.t.sf(distance, len(values) - 1)]


@cache
def prediction_factor(n: int, coverage: float = COVERAGE) -> float:
    """How many sd to each side one further value is expected within; NaN for n < 2."""
    if n < 2:
        return math.nan
    return float(stats.t.ppf((1 + coverage) / 2, n - 1) * math.sqrt(1 + 1 / n))


INTERVALS: dict[str, Callable[[Sequence[float]], Interval]] = {
    "mean ± 2 sd": two_sigma,
    "t prediction": t_prediction,
    "t prediction of logarithms": log_t_prediction,
    "median and MAD": robust,
}
