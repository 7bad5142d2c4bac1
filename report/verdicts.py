"""What diagnosers answered and how it was judged: read from a case's score, counted over cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from report.case import Case
from report.proportion import Proportion

#: Grains shown, from coarse to exact; `diagnosis.score` defines them.
GRAINS = ("stage", "role", "component", "kind", "joint")

NOT_DIAGNOSED = "not diagnosed"


@dataclass(frozen=True)
class Verdict:
    """One judged answer. `right` and `chance` by grain; empty where there is nothing to name or the judge failed."""

    diagnoser: str
    tier: str
    outcome: str
    component: str = ""
    stage: str = ""
    kind: str = ""
    reason: str = ""
    detected: bool | None = None
    right: Mapping[str, bool] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)

    @property
    def who(self) -> str:
        """Diagnoser and what it could see: ``first-error T1``."""
        return f"{self.diagnoser} {self.tier}"

    @property
    def answer(self) -> str:
        """Its first cause in words, or what it did instead."""
        if self.component or self.stage:
            return f"{self.kind} on {self.component} in {self.stage}"
        return {"right": "no fault", "missed": "no fault", "abstained": "abstained"}.get(self.outcome, "no usable answer")


@dataclass(frozen=True)
class Standing:
    """One diagnoser on one tier over the valid cases with a fault; `alarms` counts no-fault cases judged so."""

    who: str
    shares: dict[str, Proportion]
    outcomes: dict[str, int]
    alarms: Proportion


def verdicts(case: Case) -> list[Verdict]:
    """The judged answers of a case, by diagnoser and tier. A score that is not in the known shape counts as none."""
    entries = case.score.get("verdicts", [])
    return sorted((_verdict(entry) for entry in entries if isinstance(entry, dict)), key=lambda one: one.who)


def _verdict(entry: Mapping[str, Any]) -> Verdict:
    top, grains = entry.get("top") or {}, entry.get("grains") or {}
    return Verdict(
        diagnoser=str(entry.get("diagnoser", "?")),
        tier=str(entry.get("tier", "?")),
        outcome=str(entry.get("outcome", "unknown")),
        **{key: str(top.get(key) or "") for key in ("component", "stage", "kind")},
        reason=str(entry.get("reason") or ""),
        detected=entry.get("detected"),
        right={name: bool(grain["ac1"]) for name, grain in grains.items()},
        chance={name: float(grain["chance"]["ac1"]) for name, grain in grains.items()},
    )


def verdict_line(judged: Sequence[Verdict]) -> str:
    """Who was right, who was partly right, and how many were neither; "not diagnosed" without answers."""
    if not judged:
        return NOT_DIAGNOSED
    by_outcome: dict[str, list[str]] = {}
    for verdict in judged:
        by_outcome.setdefault(verdict.outcome, []).append(verdict.who)
    named = [f"{outcome}: {', '.join(by_outcome.pop(outcome))}" for outcome in ("right", "partial") if outcome in by_outcome]
    counted = [f"{outcome}: {len(who)}" for outcome, who in sorted(by_outcome.items())]
    return "; ".join([*named, *counted])


def standings(cases: Sequence[Case]) -> list[Standing]:
    """Every diagnoser and tier over the valid cases. A verdict "unknown" (the judge failed) counts as nothing."""
    judged = [(case, verdict) for case in cases if case.outcome["valid"] for verdict in verdicts(case)]
    names = sorted({verdict.who for _, verdict in judged})
    return [_standing(who, [(case, verdict) for case, verdict in judged if verdict.who == who]) for who in names]


def _standing(who: str, judged: Sequence[tuple[Case, Verdict]]) -> Standing:
    counted = [verdict for case, verdict in judged if case.faulty and verdict.outcome != "unknown"]
    quiet = [verdict for case, verdict in judged if not case.faulty and verdict.outcome != "unknown"]
    shares = {grain: _share(grain, counted) for grain in GRAINS}
    alarms = Proportion(sum(verdict.outcome == "false-blame" for verdict in quiet), len(quiet))
    return Standing(who, shares, dict(Counter(verdict.outcome for _, verdict in judged)), alarms)


def _share(grain: str, judged: Sequence[Verdict]) -> Proportion:
    known = [verdict for verdict in judged if grain in verdict.right]
    chance = fmean(verdict.chance[grain] for verdict in known) if known else None
    return Proportion(sum(verdict.right[grain] for verdict in known), len(known), chance)
