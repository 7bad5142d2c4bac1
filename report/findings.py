"""Titles: each says what the data says, in a sentence built from it. Nothing here is true of every page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from report.case import Case
from report.comparison import RunComparison, count
from report.mitigation import HARMS, HELPS, Mitigation
from report.movement import MOVED, Movement
from report.sample import Key
from report.series import Choice
from report.verdicts import Verdict


def page_finding(cases: Sequence[Case]) -> str:
    """What the whole set shows: where errors came out against where faults were, among valid runs."""
    faulty = [case for case in cases if case.faulty and case.outcome["valid"]]
    hops = [case.outcome["hop"] for case in faulty if case.outcome["hop"]]
    if not faulty:
        return f"{count(len(cases), 'run')}, none of them valid with a fault: nothing to say about where errors come out."
    if not hops:
        return f"None of {count(len(faulty), 'valid fault run')} made the job report an error."
    crossed = _crossed_by_arm(faulty) or f"{sum(hop['crossed'] for hop in hops)} of {count(len(hops), 'valid fault run')}"
    moved = _moved_component(faulty)
    tail = f"; in {moved} the first error was on another component" if moved else ""
    silent = len(faulty) - len(hops)
    quiet = f"; {count(silent, 'fault run')} showed no error at all" if silent else ""
    return f"The error came out in another stage than the fault in {crossed}{tail}{quiet}."


def _crossed_by_arm(faulty: Sequence[Case]) -> str:
    """``4 of 5 legacy runs and 0 of 4 hardened runs``; empty with one arm only."""
    arms = list(dict.fromkeys(str(case.outcome["arm"]) for case in faulty))
    told = []
    for arm in arms:
        hops = [case.outcome["hop"] for case in faulty if case.outcome["arm"] == arm and case.outcome["hop"]]
        if hops:
            told.append(f"{sum(hop['crossed'] for hop in hops)} of {count(len(hops), f'{arm} run')}")
    return " and ".join(told) if len(arms) > 1 else ""


def _moved_component(faulty: Sequence[Case]) -> int:
    both = [(case.outcome["root"], case.outcome["first_error"]) for case in faulty]
    return sum(1 for root, first in both if root and first and root["component"] != first["component"])


def case_finding(case: Case) -> str:
    """What happened in one run."""
    outcome = case.outcome
    root, final, hop = outcome["root"], outcome["final_error"], outcome["hop"]
    done = f"{outcome['steps_done']} of {count(outcome['steps_planned'], 'step')}"
    if not outcome["valid"]:
        return f"Does not count: {'; '.join(outcome['invalid_because'])}."
    if root is None:
        return f"Without a fault the job did {done}" + (f" and failed in {final['stage']}." if final else ".")
    kinds = " then ".join(dict.fromkeys(root["kinds"]))
    what = f"A {kinds} fault on {root['target'] or root['component']} in {words(root['stage'])}"
    if hop is None:
        return f"{what}: no error followed; the job did {done}."
    first = outcome["first_error"]
    where = f"another stage, {words(hop['to'])}," if hop["crossed"] else "the same stage"
    other = f", first on {first['component']}" if first and first["component"] != root["component"] else ""
    delay = f" {seconds(hop['fault_to_error_s'])} later" if hop["fault_to_error_s"] is not None else ""
    return f"{what} came out in {where}{delay}{other}."


def words(stage: str) -> str:
    """A stage as prose."""
    return stage.replace("_", " ") if stage else "an unknown stage"


def seconds(value: float) -> str:
    """A duration with three digits: ``0.42 s``, ``11.3 s``, ``754 s``."""
    return f"{value:.3g} s" if value < 1000 else f"{value:.0f} s"


def timeline_finding(case: Case) -> str:
    """Where the first ERROR line stood, seen from the fault."""
    root, first = case.outcome["root"], case.outcome["first_error"]
    if root is None or first is None:
        return "No error line to place." if first is None else f"The first error is on {first['component']}."
    if root["wall_s"] is None:
        return f"The first error is on {first['component']}; the fault never took hold."
    side = "after" if first["wall_s"] >= root["wall_s"] else "before"
    at_root = first["component"] == root["component"]
    same = "the faulty component itself" if at_root else f"{first['component']}, not {root['component']}"
    return f"The first error line comes {seconds(abs(first['wall_s'] - root['wall_s']))} {side} the fault took hold, on {same}."


def movement_finding(comparison: RunComparison) -> str:
    """What moved most, and how much moved at all."""
    if not comparison.tested:
        return "Cannot tell what moved: no sample with a healthy band."
    moved = comparison.moved
    if not moved:
        return f"None of {count(comparison.tested, 'sample')} moved beyond doubt."
    metrics = Counter(one.metric for one in moved)
    top = max(moved, key=_size)
    return f"{count(len(metrics), 'metric')} moved; most of all {top.metric} on {top.component}, {change(top)}."


def _size(one: Movement) -> float:
    if one.ratio is None or one.ratio <= 0:
        return 0.0
    return max(one.ratio, 1.0 / one.ratio)


def change(one: Movement) -> str:
    """A movement in words: ``36 s, 30x the healthy mean (25x to 38x)``."""
    ratio = f", {times(one.ratio)} the healthy mean" if one.ratio is not None else ""
    ends = ""
    if one.ratio_lo is not None and not one.constant:
        ends = f" ({times(one.ratio_lo)} to {times(one.ratio_hi)})" if one.ratio_hi else f" (at least {times(one.ratio_lo)})"
    return f"{one.value:.4g} {one.unit}{ratio}{ends}"


def times(ratio: float) -> str:
    """A ratio: ``0.5x``, ``30x``, ``1010x``."""
    return f"{ratio:.3g}x" if ratio < 1000 else f"{ratio:.0f}x"


def series_finding(choice: Choice) -> str:
    """Why this metric is drawn."""
    return f"{choice.metric} of {choice.role}: {choice.why}."


def silence(absent: Sequence[Key]) -> str:
    """Which stage times no longer came, by name, and how many other metrics fell silent with them."""
    timed = {metric for stage, metric, _ in absent if stage and metric.startswith("timeperf/")}
    names = ", ".join(sorted(metric.removeprefix("timeperf/") for metric in timed))
    others = len(absent) - len(timed)
    named = f"no more stage times of {names}" if timed else ""
    rest = f"{count(others, 'other metric')} fell silent" if others else ""
    return "; ".join(part for part in (named, rest) if part)


def stage_times_finding(comparison: RunComparison | None) -> str:
    """How many stage times left their interval from the step of the fault on."""
    timings = [one for one in comparison.stood_out if one.metric.startswith("timeperf/")] if comparison else []
    names = sorted({one.metric for one in timings})
    sure = sorted({one.metric for one in timings if one.verdict == MOVED})
    if not names:
        return "No stage time left its healthy interval."
    return f"{count(len(names), 'stage time')} left the healthy interval, {len(sure)} of them beyond the multiplicity."


def mitigation_finding(found: Sequence[Mitigation]) -> str:
    """Where a posture helped beyond doubt."""
    helped = sorted({(one.posture, one.scenario) for one in found for effect in one.effects if effect.verdict == HELPS})
    harmed = sorted({(one.posture, one.scenario) for one in found for effect in one.effects if effect.verdict == HARMS})
    if not helped and not harmed:
        pairs = sum(len(one.seeds) for one in found)
        return f"Whether a posture helps cannot be told from {count(pairs, 'pair')} of runs."
    parts = [
        f"{word} in {', '.join(f'{scenario} ({posture})' for posture, scenario in where)}"
        for word, where in (("helped", helped), ("harmed", harmed))
        if where
    ]
    return f"Mitigations {'; '.join(parts)}."


def diagnosis_finding(verdicts: Sequence[Verdict]) -> str:
    """Who found the root stage, best first."""
    answered = [one for one in verdicts if "stage" in one.right]
    if not answered:
        return "No diagnosis was scored."
    right: Counter[str] = Counter(one.diagnoser for one in answered if one.right["stage"])
    total = Counter(one.diagnoser for one in answered)
    best = sorted(total, key=lambda who: (-right[who] / total[who], who))
    return (
        "Root stage named right, all tiers together: " + ", ".join(f"{who} {right[who]} of {total[who]}" for who in best) + "."
    )
