"""A comparison: fault runs against healthy bands, and arms against each other, with everything that limits it said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from report.case import Case
from report.contrast import Contrast, contrasts
from report.mitigation import Mitigation
from report.movement import CANNOT_TELL, MOVED, OUTSIDE, Band, Movement, absent, movements, outside_share
from report.sample import Key
from report.sampled import measured


@dataclass(frozen=True)
class RunComparison:
    """One run against the bands of `baselines`. `before` is (outside, tested) of the steps before the fault: false alarms."""

    run_id: str
    name: str
    baselines: tuple[str, ...]
    fault_step: int
    tested: int
    counts: dict[str, int]
    stood_out: list[Movement]
    absent: list[Key]
    before: tuple[int, int]
    root_to_error: str
    gaps: list[str] = field(default_factory=list)

    @property
    def moved(self) -> list[Movement]:
        """What moved beyond doubt."""
        return [one for one in self.stood_out if one.verdict == MOVED]


@dataclass(frozen=True)
class Contrasted:
    """One run against another one."""

    run_id: str
    reference_id: str
    name: str
    from_step: int
    rows: list[Contrast]


@dataclass(frozen=True)
class Comparison:
    """Everything compared. `gaps` holds one sentence for each thing that limits it."""

    baselines: tuple[str, ...]
    runs: list[RunComparison]
    pairs: list[Contrasted]
    mitigations: list[Mitigation]
    gaps: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def compare_case(case: Case, bands: Mapping[Key, Band], baselines: tuple[str, ...], warmup_steps: int) -> RunComparison:
    """A run's samples from the step of the fault on, each against its healthy band; earlier steps count false alarms."""
    warm, first = measured_from(case, warmup_steps)
    samples = [sample for sample in measured(case) if sample.step >= warm]
    judged = movements([sample for sample in samples if sample.step >= first], bands)
    before = movements([sample for sample in samples if sample.step < first], bands)
    gaps = [] if bands else ["no healthy band to compare with: cannot tell what moved"]
    if bands and not judged:
        gaps.append("no sample of a metric with a healthy band at or after the step of the fault")
    return RunComparison(
        case.run_id,
        case.name,
        baselines,
        case.fault_step,
        tested=len(judged),
        counts=dict(Counter(one.verdict for one in judged)),
        stood_out=sorted((one for one in judged if one.verdict in (MOVED, OUTSIDE)), key=_strength),
        absent=absent(samples, bands, first),
        before=outside_share(before),
        root_to_error=root_to_error(case.outcome),
        gaps=gaps,
    )


def measured_from(case: Case, warmup_steps: int) -> tuple[int, int]:
    """(first step after warm-up, first step that counts as "at or after the fault") of a run."""
    warm = min((int(row["step"]) for row in case.metrics if row["step"] >= 0), default=0) + warmup_steps
    return warm, max(case.fault_step, warm)


def _strength(one: Movement) -> tuple[bool, float, int]:
    return (one.verdict != MOVED, one.q if one.q is not None else 1.0, one.step)


def contrast_cases(case: Case, reference: Case, warmup_steps: int) -> Contrasted:
    """The same steps of two runs, from the step of the fault on."""
    _, first = measured_from(case, warmup_steps)
    rows = contrasts(measured(case), measured(reference), first)
    rows.sort(key=lambda row: row.q if row.q is not None else 2.0)
    return Contrasted(case.run_id, reference.run_id, f"{case.name} against {reference.name}", first, rows)


def root_to_error(outcome: Mapping[str, Any]) -> str:
    """Where the first error appeared against where the fault was, in one sentence."""
    root, first = outcome.get("root"), outcome.get("first_error")
    if root is None:
        return "no fault; " + (f"first error in {first['stage']} on {first['component']}" if first else "no error")
    place = f"fault in {root['stage']} on {root['component']} at step {root['step']}"
    if first is None:
        return f"{place}; no error followed"
    where = f"first error in {first['stage'] or 'an unknown stage'} on {first['component']} at step {first['step']}"
    delay = f", {first['wall_s'] - root['wall_s']:.2f} s after it took hold" if root.get("wall_s") is not None else ""
    return f"{place}; {where}{delay}"


def count(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tell_counts(run: RunComparison) -> str:
    """What was tested and how it came out, in one sentence."""
    counts = {word: run.counts.get(word, 0) for word in (MOVED, OUTSIDE, CANNOT_TELL)}
    outside, tested = run.before
    before = f"; before the fault {outside} of {tested} lay outside (5 % expected)" if tested else ""
    outside_only = f"{counts[OUTSIDE]} outside their interval but not beyond the multiplicity"
    tested_all = f"{count(run.tested, 'sample')} tested: {counts[MOVED]} moved (q <= 0.05)"
    return f"{tested_all}, {outside_only}, {counts[CANNOT_TELL]} cannot tell{before}"
