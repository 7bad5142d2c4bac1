"""Verdicts of many cases as rates with intervals: per diagnoser and tier, next to chance, with what was left out said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from scipy.stats import binomtest

from diagnosis.score import GRAINS

MEASURES = ("ac1", "ac3")


def summarise(verdicts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per (diagnoser, tier), sorted. Each verdict carries ``diagnoser``, ``tier`` and what `score.judge` returned.

    ``n`` counts cases judged; unknown verdicts are outside every rate and counted in ``outcomes``. Wilson intervals take
    cases as independent: repeats of one scenario are not, so with few scenarios read them as optimistic.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict["diagnoser"], verdict["tier"]), []).append(verdict)
    return [_row(diagnoser, tier, group) for (diagnoser, tier), group in sorted(groups.items())]


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion; (0, 1) when nothing was observed."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def _row(diagnoser: str, tier: str, group: list[dict[str, Any]]) -> dict[str, Any]:
    judged = [verdict for verdict in group if verdict["outcome"] != "unknown"]
    faulty = [verdict for verdict in judged if verdict["grains"]]
    healthy = [verdict for verdict in judged if not verdict["grains"]]
    answered = [v for v in faulty if v["outcome"] in ("right", "partial", "wrong")]
    return {
        "diagnoser": diagnoser,
        "tier": tier,
        "n": len(judged),
        "outcomes": dict(sorted(Counter(verdict["outcome"] for verdict in group).items())),
        "grains": {grain: _grain(grain, faulty) for grain in GRAINS} if faulty else {},
        "coverage": _rate(len(answered), len(faulty)),
        "misdiagnosis": _rate(sum(not v["grains"]["stage"]["ac1"] for v in answered), len(answered)),
        "false_blame": _rate(sum(v["outcome"] == "false-blame" for v in healthy), len(healthy)),
    }


def _grain(grain: str, verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [verdict["grains"][grain] for verdict in verdicts]
    rows: dict[str, Any] = {}
    for measure in MEASURES:
        rate = _rate(sum(score[measure] for score in scores), len(scores))
        chance = _mean([score["chance"][measure] for score in scores])
        rows[measure] = {**rate, "chance": chance, "lift": rate["rate"] - chance}
    mrr, chance = _mean([s["reciprocal_rank"] for s in scores]), _mean([s["chance"]["reciprocal_rank"] for s in scores])
    rows["mrr"] = {"n": len(scores), "rate": mrr, "chance": chance, "lift": mrr - chance}
    return rows


def _rate(successes: int, n: int) -> dict[str, Any]:
    low, high = wilson(successes, n)
    return {"n": n, "successes": successes, "rate": successes / n if n else None, "low": low, "high": high}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
