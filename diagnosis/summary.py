"""Verdicts of many cases as figures with intervals: per diagnoser and tier, next to chance, with what was left out said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean, quantiles
from typing import Any

from diagnosis.answer import METER
from diagnosis.calibration import calibration
from diagnosis.intervals import clustered, wilson
from diagnosis.score import GRAINS
from diagnosis.survival import time_to_diagnose

Verdict = dict[str, Any]

SHARES = ("ac1", "ac3", "ac5")
MEANS = {"avg5": "avg5", "mrr": "reciprocal_rank"}
ANSWERED = ("right", "partial", "wrong")
#: What a sandboxed diagnosis may take, seconds (`diagnosis.sandbox.Limits`).
BUDGET_S = 30.0


def summarise(verdicts: Iterable[Verdict], budget_s: float = BUDGET_S) -> list[dict[str, Any]]:
    """One row per (diagnoser, tier), sorted. Each verdict carries ``diagnoser``, ``tier`` and what `score.judge` returned.

    ``n`` counts cases judged; unknown verdicts are outside every rate and counted in ``outcomes``. Wilson intervals take cases
    as independent; ``clustered`` draws whole scenarios and is there from two scenarios on. Times are censored at ``budget_s``.
    """
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict["diagnoser"], verdict["tier"]), []).append(verdict)
    return [_row(diagnoser, tier, group, budget_s) for (diagnoser, tier), group in sorted(groups.items())]


def _row(diagnoser: str, tier: str, group: list[Verdict], budget_s: float) -> dict[str, Any]:
    judged = [verdict for verdict in group if verdict["outcome"] != "unknown"]
    faulty = [verdict for verdict in judged if verdict["grains"]]
    healthy = [verdict for verdict in judged if not verdict["grains"]]
    answered = [v for v in faulty if v["outcome"] in ANSWERED]
    return {
        "diagnoser": diagnoser,
        "tier": tier,
        "n": len(judged),
        "outcomes": dict(sorted(Counter(verdict["outcome"] for verdict in group).items())),
        "grains": {grain: _grain(grain, faulty) for grain in GRAINS} if faulty else {},
        "coverage": share([v["outcome"] in ANSWERED for v in faulty], faulty),
        "misdiagnosis": share([not v["grains"]["stage"]["ac1"] for v in answered], answered),
        "wrong_component": share([not v["grains"]["component"]["ac1"] for v in answered], answered),
        "false_blame": _blamed(healthy),
        "false_blame_decoys": _blamed([v for v in healthy if v.get("decoy")]),
        "misled": {grain: _misled(grain, answered) for grain in ("component", "stage")},
        "chain_f1": _spread([v["chain_f1"] for v in answered if v.get("chain_f1") is not None]),
        "grounded": share([bool(v["grounded"]) for v in _told("grounded", faulty)], _told("grounded", faulty)),
        "hops": _spread([v["hops"] for v in faulty if v.get("hops") is not None]),
        "detect_s": _spread([v["detect_s"] for v in answered if v.get("detect_s") is not None]),
        "diagnose": _diagnose(faulty, budget_s),
        "effort": {what: _spread([v["meter"][what] for v in judged if v.get("meter")]) for what in METER},
        "calibration": calibration(
            [v["confidence"] for v in _told("confidence", answered)],
            [v["outcome"] == "right" for v in _told("confidence", answered)],
        ),
    }


def share(hits: Sequence[bool], cases: Sequence[Verdict]) -> dict[str, Any]:
    """``successes`` of ``n``, the ``rate`` (None of nothing), Wilson's ``low`` and ``high``, the ``clustered`` interval."""
    low, high = wilson(sum(hits), len(hits))
    return {
        "n": len(hits),
        "successes": sum(hits),
        "rate": sum(hits) / len(hits) if hits else None,
        "low": low,
        "high": high,
        "clustered": _clustered([float(hit) for hit in hits], cases),
    }


def _blamed(healthy: list[Verdict]) -> dict[str, Any]:
    """Of cases without a fault (decoys are among them) the share in which somebody was blamed."""
    return share([v["outcome"] == "false-blame" for v in healthy], healthy)


def _grain(grain: str, verdicts: list[Verdict]) -> dict[str, Any]:
    scores = [verdict["grains"][grain] for verdict in verdicts]
    rows: dict[str, Any] = {}
    for measure in SHARES:
        rate = share([bool(score[measure]) for score in scores], verdicts)
        chance = fmean(score["chance"][measure] for score in scores)
        skill = (rate["rate"] - chance) / (1 - chance) if chance < 1 else None
        rows[measure] = {**rate, "chance": chance, "lift": rate["rate"] - chance, "skill": skill}
    rows["ac1"]["macro"] = _macro([float(score["ac1"]) for score in scores], verdicts)
    for name, key in MEANS.items():
        values, chance = [score[key] for score in scores], fmean(score["chance"][key] for score in scores)
        mean, interval = fmean(values), _clustered(values, verdicts)
        rows[name] = {"n": len(scores), "rate": mean, "chance": chance, "lift": mean - chance, "clustered": interval}
    return rows


def _macro(values: list[float], verdicts: Sequence[Verdict]) -> float | None:
    """Mean over scenarios, each with equal weight; None where the scenarios are not told."""
    by_scenario: dict[str, list[float]] = {}
    for value, verdict in zip(values, verdicts, strict=True):
        by_scenario.setdefault(verdict.get("scenario", ""), []).append(value)
    return None if "" in by_scenario else fmean(map(fmean, by_scenario.values()))


def _clustered(values: list[float], verdicts: Sequence[Verdict]) -> tuple[float, float] | None:
    scenarios = [verdict.get("scenario", "") for verdict in verdicts]
    return None if "" in scenarios else clustered(values, scenarios)


def _told(key: str, verdicts: list[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.get(key) is not None]


def _misled(grain: str, answered: list[Verdict]) -> dict[str, Any]:
    """Of the answers with a wrong component (stage), the share that named the one where the error came out."""
    wrong = [v for v in answered if v.get("misled", {}).get(grain) is not None]
    return share([v["misled"][grain] for v in wrong], wrong)


def _diagnose(faulty: list[Verdict], budget_s: float) -> dict[str, Any]:
    timed = _told("wall_s", faulty)
    return time_to_diagnose([v["wall_s"] for v in timed], [v["outcome"] == "right" for v in timed], budget_s)


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """``n``, ``median`` and the quartiles around it; None of nothing."""
    if not values:
        return {"n": 0, "low": None, "median": None, "high": None}
    low, median, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"n": len(values), "low": low, "median": median, "high": high}
