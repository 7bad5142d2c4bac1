"""Compare fault runs with the healthy bands of comparable runs, and each with its own control."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

from report.case import Case
from report.comparison import Comparison, RunComparison, compare_case, contrast_cases, measured_from
from report.mitigation import mitigations
from report.sampled import stage_means
from storage.bands import Band, band, baseline_bands
from storage.catalogue import run_ids_here
from storage.layout import run_paths
from tasks.outcome import open_case

Bands = dict[tuple[str, str, str], Band]

#: Steps left out of every statistic where a plan does not say: the first ones warm caches and learn most.
WARMUP_STEPS = 2


def compare_runs(run_ids: Sequence[str] | None = None, baseline_ids: Sequence[str] | None = None) -> Comparison:
    """Compare `run_ids` (default: every run with a fault) with bands of `baseline_ids` (default: comparable healthy runs).

    ValueError names a run that does not exist. A run without tables, or without comparable healthy runs, is a named gap.
    """
    for run_id in baseline_ids or ():
        open_case(run_paths(run_id), tables=())
    wanted = [open_case(run_paths(run_id)) for run_id in dict.fromkeys(known_runs() if run_ids is None else run_ids)]
    chosen = wanted if run_ids is not None else [case for case in wanted if case.faulty]
    return compare_cases(chosen, known_cases(wanted), baseline_ids)


def known_runs() -> list[str]:
    """Every run id of this home."""
    return run_ids_here()


def known_cases(cases: Sequence[Case]) -> list[Case]:
    """Where baselines and controls are looked for: `cases` themselves, and, where they are too few, every run of this home."""
    if all(len(baselines_for(case, cases, None)) > 1 and (control_of(case, cases) or not case.faulty) for case in cases):
        return list(cases)
    mine = {case.run_id for case in cases}
    return [*cases, *(open_case(run_paths(run_id), tables=("logs",)) for run_id in known_runs() if run_id not in mine)]


def compare_cases(chosen: Sequence[Case], known: Sequence[Case], baseline_ids: Sequence[str] | None) -> Comparison:
    """The comparison of opened cases. `known` is where baselines and controls are looked for."""
    runs = []
    for case in chosen:
        baselines = baselines_for(case, known, baseline_ids)
        runs.append(compare_case(case, bands(baselines, warmup_of(case)), baselines, warmup_of(case)))
    gaps = [f"{case.name} ({case.run_id}): {gap}" for case in chosen for gap in case.outcome["gaps"]]
    gaps += [f"{run.name} ({run.run_id}): {gap}" for run in runs for gap in [*_thin(run), *run.gaps]]
    used = tuple(sorted({run_id for run in runs for run_id in run.baselines}))
    found = [(case, _measured(control)) for case in chosen if (control := control_of(case, known))]
    pairs = [contrast_cases(case, control, warmup_of(case)) for case, control in found]
    gaps += [f"{case.name}: {gap}" for case in chosen if (gap := _stand_in(case, runs, known))]
    helped = mitigations([*chosen, *(control for _, control in found)])
    return Comparison(used, runs, pairs, helped, gaps if chosen else ["no run to compare"])


def _stand_in(case: Case, runs: Sequence[RunComparison], known: Sequence[Case]) -> str:
    """Said of a run whose bands come from healthy runs in another posture."""
    used = {run_id for run in runs if run.run_id == case.run_id for run_id in run.baselines}
    postures = sorted({str(one.plan.get("posture")) for one in known if one.run_id in used} - {str(case.plan.get("posture"))})
    return f"its bands are those of healthy jobs in the posture {', '.join(postures)}" if postures else ""


def bands_of(comparison: Comparison, cases: Sequence[Case]) -> dict[str, Bands]:
    """The bands that each run of the comparison was held against, by run id."""
    warmup = {case.run_id: warmup_of(case) for case in cases}
    return {run.run_id: bands(run.baselines, warmup[run.run_id]) for run in comparison.runs}


def _measured(case: Case) -> Case:
    """The case with its metrics, which a case that was only looked at has not."""
    return case if case.metrics else open_case(run_paths(case.run_id))


def baselines_for(case: Case, known: Sequence[Case], baseline_ids: Sequence[str] | None) -> tuple[str, ...]:
    """The runs that stand for normal: those given, or all healthy ones of the same workload. Never the run itself.

    Where there is none in the same posture, those in another stand for it.

    Control arms of fault scenarios are kept out of it while there are two runs of scenarios that hold no fault at all.
    """
    if baseline_ids is not None:
        return tuple(run_id for run_id in baseline_ids if run_id != case.run_id)
    with_fault = {one.outcome["scenario"] for one in known if one.faulty}
    healthy = [one for one in known if one.healthy and one.run_id != case.run_id]
    alike = [one for one in healthy if workload_key(one) == workload_key(case)]
    alike = alike or [one for one in healthy if without_posture(one) == without_posture(case)]
    quiet = [one for one in alike if one.outcome["scenario"] not in with_fault]
    return tuple(sorted(one.run_id for one in (quiet if len(quiet) > 1 else alike)))


def workload_key(case: Case) -> str:
    """Equal for runs whose numbers may be compared."""
    return json.dumps(case.workload, sort_keys=True, default=str)


def without_posture(case: Case) -> str:
    """Equal for runs that differ in their posture at most."""
    workload = dict(case.workload)
    return json.dumps(workload | {"job": {**workload["job"], "posture": {}}}, sort_keys=True, default=str)


def control_of(case: Case, known: Sequence[Case]) -> Case | None:
    """The control arm of the same scenario, seed and workload; in the same posture, if there is one."""
    if not case.faulty:
        return None
    same = (case.outcome["scenario"], case.outcome["seed"])
    alike = [one for one in known if not one.faulty and (one.outcome["scenario"], one.outcome["seed"]) == same]
    same_posture = (one for one in alike if workload_key(one) == workload_key(case))
    return next(same_posture, next((one for one in alike if without_posture(one) == without_posture(case)), None))


def warmup_of(case: Case) -> int:
    """Steps of this case's plan that are left out."""
    return int(case.plan.get("warmup_steps", WARMUP_STEPS))


@lru_cache(maxsize=64)
def bands(baselines: tuple[str, ...], warmup_steps: int) -> Bands:
    """Healthy bands of finished runs by (stage, metric, role): what the job told per step, and the sampler per stage."""
    found = baseline_bands(baselines, warmup_steps=warmup_steps) if baselines else []
    cases = [open_case(run_paths(run_id), tables=("metrics",)) for run_id in baselines]
    readings: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for case in cases:
        warm, _ = measured_from(case, warmup_steps)
        for sample in stage_means(case):
            if sample.step >= warm:
                readings[*sample.key, sample.unit].append(sample.value)
    found += [band(*key, values, runs=len(cases)) for key, values in readings.items()]
    return {(one.stage, one.metric, one.role): one for one in found}


def _thin(run: RunComparison) -> list[str]:
    count = len(run.baselines)
    if count >= 5:
        return []
    runs = "1 healthy run" if count == 1 else f"{count} healthy runs"
    return [f"bands from {runs}; steps of one run depend on one another, so five are wanted"]
