"""What moved: single samples of a run against the healthy band of their stage, metric and role.

A band is what `storage.bands` computes from healthy runs. The test is the t prediction interval (mean ± t·sd·√(1+1/n)): the
range in which one more healthy sample lies with 95 % probability; mean ± 2 sd is reported next to it because people know it.
Many samples are tested at once, so each p-value also gets a Benjamini-Hochberg q within its run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from scipy import stats

from report.outcome import role_of
from report.sample import Key, Sample

#: Fewer healthy samples than this: the interval is so wide (t > 4) that the answer is "cannot tell".
MIN_SAMPLES = 4
#: Wanted share of false ones among what is called moved.
FALSE_DISCOVERY_RATE = 0.05

MOVED, OUTSIDE, WITHIN, CANNOT_TELL = "moved", "outside", "within", "cannot tell"


class Band(Protocol):
    """Healthy statistics of one (stage, metric, role): `storage.bands.Band`."""

    @property
    def n(self) -> int: ...
    @property
    def mean(self) -> float: ...
    @property
    def sd(self) -> float: ...
    @property
    def lo2s(self) -> float: ...
    @property
    def hi2s(self) -> float: ...
    @property
    def lo_t(self) -> float: ...
    @property
    def hi_t(self) -> float: ...


@dataclass(frozen=True)
class Movement:
    """A sample against its band. `difference` is in `unit` with its 95 % interval; `ratio` is value / healthy mean.

    ``verdict``: moved (outside the t interval, q <= 0.05), outside (outside, but does not survive the multiplicity), within,
    or cannot tell (too few healthy samples). Ratio and its ends are None where the mean, or an end, is not positive.
    """

    stage: str
    metric: str
    unit: str
    role: str
    component: str
    step: int
    value: float
    n: int
    mean: float
    lo_t: float
    hi_t: float
    difference: float
    difference_lo: float
    difference_hi: float
    ratio: float | None
    ratio_lo: float | None
    ratio_hi: float | None
    beyond_2s: bool
    constant: bool
    p: float | None
    q: float | None
    verdict: str


def movements(samples: Sequence[Sample], bands: Mapping[Key, Band]) -> list[Movement]:
    """Each sample that has a band, judged; the q values count all of `samples` as one family."""
    judged = [_against(sample, bands[sample.key]) for sample in samples if sample.key in bands]
    tested = [index for index, one in enumerate(judged) if one.p is not None]
    q_values = false_discovery([judged[index].p or 0.0 for index in tested])
    for index, q in zip(tested, q_values, strict=True):
        moved = judged[index].verdict == OUTSIDE and q <= FALSE_DISCOVERY_RATE
        judged[index] = replace(judged[index], q=q, verdict=MOVED if moved else judged[index].verdict)
    return judged


def false_discovery(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg q values, in the order given."""
    return [float(q) for q in stats.false_discovery_control(p_values)] if len(p_values) else []


def _against(sample: Sample, band: Band) -> Movement:
    positive = band.mean > 0
    constant = band.sd <= 1e-9 * abs(band.mean)
    verdict, p = _test(sample.value, band, constant=constant)
    return Movement(
        sample.stage,
        sample.metric,
        sample.unit,
        role_of(sample.component),
        sample.component,
        sample.step,
        sample.value,
        band.n,
        band.mean,
        band.lo_t,
        band.hi_t,
        difference=sample.value - band.mean,
        difference_lo=sample.value - band.hi_t,
        difference_hi=sample.value - band.lo_t,
        ratio=sample.value / band.mean if positive else None,
        ratio_lo=sample.value / band.hi_t if positive else None,
        ratio_hi=sample.value / band.lo_t if positive and band.lo_t > 0 else None,
        beyond_2s=not band.lo2s <= sample.value <= band.hi2s,
        constant=constant,
        p=p,
        q=None,
        verdict=verdict,
    )


def _test(value: float, band: Band, *, constant: bool) -> tuple[str, float | None]:
    """Verdict before the multiplicity, and p.

    A metric that never varied has no t value: a new value has the smallest rank p, 2 / (n + 1), if it differs at all.
    """
    if band.n < MIN_SAMPLES or not all(map(math.isfinite, (band.mean, band.sd, band.lo_t, band.hi_t))):
        return CANNOT_TELL, None
    if constant:
        same = math.isclose(value, band.mean, rel_tol=1e-9, abs_tol=1e-12)
        return (WITHIN, 1.0) if same else (OUTSIDE, min(1.0, 2.0 / (band.n + 1)))
    t = (value - band.mean) / (band.sd * math.sqrt(1.0 + 1.0 / band.n))
    return (WITHIN if band.lo_t <= value <= band.hi_t else OUTSIDE), float(2.0 * stats.t.sf(abs(t), band.n - 1))


def absent(samples: Sequence[Sample], bands: Mapping[Key, Band], first_step: int) -> list[Key]:
    """Healthy metrics of which the run has samples before `first_step` and none from it on: silence is a finding too."""
    before = {sample.key for sample in samples if 0 <= sample.step < first_step}
    since = {sample.key for sample in samples if sample.step >= first_step}
    return sorted(key for key in bands if key in before - since)


def outside_share(judged: Sequence[Movement]) -> tuple[int, int]:
    """(samples outside their t interval, samples tested): before a fault, this is the band's own false-alarm rate."""
    tested = [one for one in judged if one.verdict != CANNOT_TELL]
    return sum(one.verdict in (MOVED, OUTSIDE) for one in tested), len(tested)
