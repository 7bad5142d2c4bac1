"""Run against run: the same stage, metric and role in two runs, over the same steps (an arm against its control)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from report.movement import CANNOT_TELL, FALSE_DISCOVERY_RATE, MOVED, false_discovery
from report.sample import Key, Sample

Samples = NDArray[np.float64]

#: Fewer samples than this on either side: a variance is a guess.
MIN_SAMPLES = 3


@dataclass(frozen=True)
class Contrast:
    """Mean of `run` minus mean of `reference`, in `unit`, with Welch's 95 % interval; `ratio` is run / reference.

    ``verdict`` is "moved" when the interval leaves out zero and q <= 0.05, otherwise "cannot tell": too few samples, or an
    interval that holds zero, show no difference; they do not show that there is none. Samples are the steps of one run each,
    which depend on one another, so the interval speaks about these two runs, not about all runs of their kind.
    """

    stage: str
    metric: str
    unit: str
    role: str
    n: int
    n_reference: int
    mean: float
    mean_reference: float
    difference: float
    difference_lo: float | None
    difference_hi: float | None
    ratio: float | None
    p: float | None
    q: float | None
    verdict: str


def contrasts(run: Sequence[Sample], reference: Sequence[Sample], first_step: int) -> list[Contrast]:
    """Every key that both runs have samples of from `first_step` on."""
    ours, theirs = _grouped(run, first_step), _grouped(reference, first_step)
    found = [_contrast(key, ours[key], theirs[key]) for key in sorted(set(ours) & set(theirs))]
    tested = [index for index, one in enumerate(found) if one.p is not None]
    q_values = false_discovery([found[index].p or 0.0 for index in tested])
    for index, q in zip(tested, q_values, strict=True):
        moved = q <= FALSE_DISCOVERY_RATE and not _holds_zero(found[index])
        found[index] = replace(found[index], q=q, verdict=MOVED if moved else CANNOT_TELL)
    return found


def _grouped(samples: Sequence[Sample], first_step: int) -> dict[Key, list[Sample]]:
    groups: dict[Key, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.step >= max(first_step, 0):
            groups[sample.key].append(sample)
    return groups


def _contrast(key: Key, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Contrast:
    stage, metric, role = key
    a, b = np.array([one.value for one in ours]), np.array([one.value for one in theirs])
    lo, hi, p = _welch(a, b) if min(len(a), len(b)) >= MIN_SAMPLES else (None, None, None)
    ratio = float(a.mean() / b.mean()) if b.mean() > 0 else None
    means = (float(a.mean()), float(b.mean()))
    return Contrast(
        stage, metric, ours[0].unit, role, len(a), len(b), *means, means[0] - means[1], lo, hi, ratio, p, None, CANNOT_TELL
    )


def _welch(a: Samples, b: Samples) -> tuple[float, float, float]:
    """(low, high, p) of mean(a) - mean(b). Where neither side varies the p value is that of the most extreme permutation."""
    difference = float(a.mean() - b.mean())
    if max(a.std(), b.std()) <= 1e-12 * max(abs(a.mean()), abs(b.mean()), 1e-300):
        same = math.isclose(a.mean(), b.mean(), rel_tol=1e-9)
        return difference, difference, 1.0 if same else 2.0 / math.comb(len(a) + len(b), len(a))
    test = stats.ttest_ind(a, b, equal_var=False)
    interval = test.confidence_interval(0.95)
    return float(interval.low), float(interval.high), float(test.pvalue)


def _holds_zero(one: Contrast) -> bool:
    lo, hi = one.difference_lo, one.difference_hi
    return lo is None or hi is None or not (math.isfinite(lo) and math.isfinite(hi)) or lo <= 0 <= hi
