"""Does a mitigation help? The same faults, seed by seed, with and without it: differences with their intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy import stats

from report.case import Case
from report.proportion import Proportion

REFERENCE = "legacy"
HELPS, HARMS, CANNOT_TELL = "helps", "harms", "cannot tell"
#: Fewer pairs than this: a variance is a guess.
MIN_PAIRS = 3
#: Steps at the end of a run over which its final quality is taken.
FINAL_STEPS = 3

Interval = tuple[float, float]


@dataclass(frozen=True)
class Effect:
    """Mean of `measure` with the mitigation minus without, over `n` pairs; the interval is of 95 %, None for too few pairs.

    ``verdict``: helps or harms where the interval leaves out zero, else it cannot tell.
    """

    measure: str
    unit: str
    n: int
    mean: float
    mean_reference: float
    difference: float
    lo: float | None
    hi: float | None
    verdict: str


@dataclass(frozen=True)
class Quality:
    """What a job that survived has learned, beside its control of the same seed: mean exact match of the last steps."""

    seed: int
    final_exact: float
    control_exact: float
    control_lo: float
    control_hi: float
    kept: bool
    """whether it lies within the control's 95 % interval"""


@dataclass(frozen=True)
class Mitigation:
    """One posture against the legacy one in one scenario."""

    scenario: str
    posture: str
    seeds: tuple[int, ...]
    effects: list[Effect]
    qualities: list[Quality]


def mitigations(cases: Sequence[Case]) -> list[Mitigation]:
    """Every scenario and posture of which there are pairs: valid runs of one seed and job, in that posture and in legacy."""
    arms: dict[tuple[str, str], dict[tuple[int, str], Case]] = defaultdict(dict)
    for case in cases:
        if case.outcome["valid"]:
            arms[case.outcome["scenario"], case.outcome["arm"]][case.outcome["seed"], alike(case)] = case
    found = []
    for (scenario, arm), runs in sorted(arms.items()):
        reference = arms.get((scenario, REFERENCE), {})
        keys = sorted(runs.keys() & reference.keys())
        if arm != REFERENCE and keys and any(runs[key].faulty for key in keys):
            pairs = [(runs[key], reference[key]) for key in keys]
            controls = arms.get((scenario, "control"), {})
            qualities = [quality for key in keys if key in controls and (quality := quality_of(runs[key], controls[key]))]
            found.append(Mitigation(scenario, arm, tuple(seed for seed, _ in keys), list(effects(pairs)), qualities))
    return found


def alike(case: Case) -> str:
    """Equal for runs that differ in nothing but posture and faults."""
    job = {key: value for key, value in (case.plan.get("job") or {}).items() if key != "posture"}
    return repr((sorted(job.items(), key=str), case.plan.get("place"), case.plan.get("profile")))


def survived(case: Case) -> bool:
    """Every step done, and no error ended it."""
    return bool(case.outcome["final_error"] is None and case.outcome["steps_done"] == case.outcome["steps_planned"] > 0)


def in_place(case: Case) -> bool:
    """Survived, or the error came out in the stage of the fault."""
    final, root = case.outcome["final_error"], case.outcome["root"]
    return survived(case) or bool(final and root and final["stage"] == root["stage"])


def _delay_s(case: Case) -> float | None:
    hop = case.outcome["hop"]
    return hop["fault_to_error_s"] if hop else None


SHARES: dict[str, Callable[[Case], bool]] = {"survived": survived, "survived, or error in the stage of the fault": in_place}
NUMBERS: dict[str, tuple[str, int, Callable[[Case], float | None]]] = {
    "steps done": ("steps", 1, lambda case: float(case.outcome["steps_done"])),
    "fault to first error": ("s", -1, _delay_s),
}


def effects(pairs: Sequence[tuple[Case, Case]]) -> Iterator[Effect]:
    """Every measure over the pairs (with, without)."""
    for name, test in SHARES.items():
        told = [(test(one), test(other)) for one, other in pairs]
        both, only, never, neither = (told.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False)))
        lo, hi = paired_shares(both, only, never, neither)
        yield _effect(name, "share", 1, len(told), ((both + only) / len(told), (both + never) / len(told)), (lo, hi))
    for name, (unit, better, number) in NUMBERS.items():
        values = [(a, b) for one, other in pairs if (a := number(one)) is not None and (b := number(other)) is not None]
        if values:
            interval = paired_means([a - b for a, b in values])
            means = fmean(a for a, _ in values), fmean(b for _, b in values)
            yield _effect(name, unit, better, len(values), means, interval)


def _effect(measure: str, unit: str, better: int, n: int, means: Interval, interval: Interval | None) -> Effect:
    """`better` is +1 where more is better, -1 where less is."""
    lo, hi = interval or (None, None)
    verdict = CANNOT_TELL
    if lo is not None and hi is not None and not lo <= 0 <= hi:
        verdict = HELPS if (lo > 0) == (better > 0) else HARMS
    return Effect(measure, unit, n, *means, means[0] - means[1], lo, hi, verdict)


def paired_shares(both: int, only: int, never: int, neither: int) -> Interval:
    """The 95 % interval of the difference of two shares of the same pairs, `only` minus `never` (Newcombe 1998, method 10)."""
    n = both + only + never + neither
    first, second = Proportion(both + only, n), Proportion(both + never, n)
    p, q = first.share or 0.0, second.share or 0.0
    (l1, u1), (l2, u2) = first.interval or (0.0, 1.0), second.interval or (0.0, 1.0)
    product = (both + only) * (never + neither) * (both + never) * (only + neither)
    surplus = both * neither - only * never
    phi = (max(surplus - n / 2, 0.0) if surplus > 0 else surplus) / math.sqrt(product) if product else 0.0
    below = (p - l1) ** 2 - 2 * phi * (p - l1) * (u2 - q) + (u2 - q) ** 2
    above = (u1 - p) ** 2 - 2 * phi * (u1 - p) * (q - l2) + (q - l2) ** 2
    return p - q - math.sqrt(max(below, 0.0)), p - q + math.sqrt(max(above, 0.0))


def paired_means(differences: Sequence[float]) -> Interval | None:
    """The 95 % t interval of a mean difference; None for too few pairs, or where all differ by the same."""
    n = len(differences)
    if n < MIN_PAIRS:
        return None
    half = float(stats.sem(differences) * stats.t.ppf(0.975, n - 1))
    return (fmean(differences) - half, fmean(differences) + half) if half > 0 else None


def quality_of(case: Case, control: Case) -> Quality | None:
    """The final quality of a job that survived and of its control, with that one's Wilson interval; None without figures."""
    if not survived(case):
        return None
    mine, theirs = _finals(case.metrics), _finals(control.metrics)
    if not mine or not theirs:
        return None
    samples = round(theirs["samples"])
    interval = Proportion(round(theirs["exact"] * samples), samples).interval
    assert interval is not None
    kept = interval[0] <= mine["exact"] <= interval[1]
    return Quality(int(case.outcome["seed"]), mine["exact"], theirs["exact"], *interval, kept)


def _finals(rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Mean exact match over the last steps, and over how many samples; empty where the controller did not tell."""
    told: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row["component"] == "controller" and row["metric"] in ("exact", "batch_samples"):
            told[str(row["metric"])][int(str(row["step"]))] = float(str(row["value"]))
    steps = sorted(told["exact"].keys() & told["batch_samples"].keys())[-FINAL_STEPS:]
    samples = sum(told["batch_samples"][step] for step in steps)
    if not samples:
        return {}
    return {"exact": sum(told["exact"][step] * told["batch_samples"][step] for step in steps) / samples, "samples": samples}
