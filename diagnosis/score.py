"""Judge one answer against the label of its case and what else is known of the case once it is open.

Grains: ``component`` (exact; the source of a link), ``endpoint`` (either end of a link), ``host``, ``role``, ``stage``,
``kind`` (any of the injected ones) and ``joint`` (component, stage and kind in one cause). At each grain the ranked causes are
reduced to their distinct values, in order; AC@k, Avg@5 and the reciprocal rank are those of the first right one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from diagnosis.chain import chain_f1
from diagnosis.chance import chance_at, chance_average, chance_reciprocal_rank
from diagnosis.vocabulary import Vocabulary
from storage.records import Cause, Diagnosis, Label

GRAINS = ("component", "endpoint", "host", "role", "stage", "kind", "joint")
AVERAGED = 5
#: A first cause is grounded when it is right and at least half of the told chain is (F1).
GROUNDED_F1 = 0.5

#: How an answer came out. ``failed`` (no answer) counts as wrong; ``unknown`` (the judge failed) counts as nothing.
OUTCOMES = ("right", "partial", "wrong", "missed", "false-blame", "abstained", "failed", "unknown")

Value = str | tuple[str, str, str]


@dataclass(frozen=True)
class Facts:
    """What else is known of an opened case, in neutral names and by the case's clock; empty or None where it is not.

    ``symptom`` is (component, stage) of the error that ended the job, ``chain`` the components from root to it, ``effect`` when
    the fault took hold.
    """

    symptom: tuple[str, str] | None = None
    chain: tuple[str, ...] = ()
    effect: datetime | None = None


@dataclass(frozen=True)
class _Grain:
    """How to read one grain off a cause, which values are right, and how many there are to guess from."""

    value: Callable[[Cause], Value]
    right: frozenset[Value]
    candidates: int


def judge(diagnosis: Diagnosis | None, label: Label, vocabulary: Vocabulary, facts: Facts | None = None) -> dict[str, Any]:
    """The verdict on one answer (None: the diagnoser gave none), as plain JSON types; label and answer in neutral names.

    ``grains`` is empty for a case without a fault: there is nothing to name. ``detected`` says whether the answer to "is
    anything wrong" was right; where nothing is wrong an abstention is right too, and is still counted as one. A failure of
    the judging itself gives ``unknown`` and no number.
    """
    try:
        grains = _score_grains(diagnosis, label, vocabulary) if label.fault else {}
        outcome = _outcome(diagnosis, label, grains)
        further = _further(diagnosis, label, grains, facts or Facts())
    except Exception as error:  # whatever broke the judge, it must not become a number
        return {"outcome": "unknown", "reason": f"{type(error).__name__}: {error}", "grains": {}, "detected": None}
    return {"outcome": outcome, "reason": "", "grains": grains, "detected": _detected(diagnosis, label), **further}


def _score_grains(diagnosis: Diagnosis | None, label: Label, vocabulary: Vocabulary) -> dict[str, dict[str, Any]]:
    ranked = diagnosis.ranked if diagnosis and _blames(diagnosis) else ()
    return {name: _score(ranked, grain) for name, grain in _grains(label, vocabulary).items()}


def _grains(label: Label, vocabulary: Vocabulary) -> dict[str, _Grain]:
    """The label must be expressible in the case's vocabulary: KeyError or ValueError otherwise."""
    if label.stage not in vocabulary.stages or not set(label.kinds) <= set(vocabulary.kinds) or not label.kinds:
        raise ValueError("the label is not in the case's vocabulary")
    components, stages, kinds = len(vocabulary.components), len(vocabulary.stages), len(vocabulary.kinds)
    same_role = vocabulary.of_role(vocabulary.roles[label.component])
    host = vocabulary.hosts.get(label.component)
    same_host = [name for name in vocabulary.components if host and vocabulary.hosts.get(name) == host] or [label.component]
    ends = {label.component, label.peer} - {""}
    joint = {(label.component, label.stage, kind) for kind in label.kinds}
    return {
        "component": _Grain(lambda c: c.component, frozenset({label.component}), components),
        "endpoint": _Grain(lambda c: c.component, frozenset(ends), components),
        "host": _Grain(lambda c: c.component, frozenset(same_host), components),
        "role": _Grain(lambda c: c.component, frozenset(same_role), components),
        "stage": _Grain(lambda c: c.stage, frozenset({label.stage}), stages),
        "kind": _Grain(lambda c: c.kind, frozenset(label.kinds), kinds),
        "joint": _Grain(lambda c: (c.component, c.stage, c.kind), frozenset(joint), components * stages * kinds),
    }


def _score(ranked: tuple[Cause, ...], grain: _Grain) -> dict[str, Any]:
    values = list(dict.fromkeys(grain.value(cause) for cause in ranked))
    rank = next((place for place, value in enumerate(values, 1) if value in grain.right), None)
    n, m = grain.candidates, len(grain.right)
    hits = [int(rank is not None and rank <= k) for k in range(1, AVERAGED + 1)]
    return {
        "rank": rank,
        "ac1": hits[0],
        "ac3": hits[2],
        "ac5": hits[4],
        "avg5": sum(hits) / AVERAGED,
        "reciprocal_rank": 1 / rank if rank else 0.0,
        "chance": {
            **{f"ac{k}": chance_at(k, n, m) for k in (1, 3, 5)},
            "avg5": chance_average(AVERAGED, n, m),
            "reciprocal_rank": chance_reciprocal_rank(n, m),
        },
    }


def _further(diagnosis: Diagnosis | None, label: Label, grains: dict[str, dict[str, Any]], facts: Facts) -> dict[str, Any]:
    """Misled by the symptom, the chain, the first alarm; None where the case or the answer does not tell.

    ``misled`` is told of wrong answers alone: whether the wrong component or stage is the one where the error came out.
    ``detect_s`` is negative for an alarm before the fault: that one was false.
    """
    top = diagnosis.ranked[0] if diagnosis and _blames(diagnosis) and label.fault else None
    f1 = chain_f1(diagnosis.chain, facts.chain) if diagnosis and diagnosis.chain and top and facts.chain else None
    alarm = diagnosis.alarm if diagnosis and top else ""
    wrong = {grain: bool(top and not grains[grain]["ac1"]) for grain in ("component", "stage")} if top else {}
    told = {"component": top.component, "stage": top.stage} if top else {}
    where = dict(zip(("component", "stage"), facts.symptom, strict=True)) if facts.symptom else {}
    return {
        "misled": {grain: told[grain] == where[grain] if wrong[grain] else None for grain in wrong} if where else {},
        "hops": len(facts.chain) - 1 if facts.chain else None,
        "chain_f1": f1,
        "grounded": bool(grains["joint"]["ac1"] and f1 >= GROUNDED_F1) if f1 is not None else None,
        "detect_s": (datetime.fromisoformat(alarm) - facts.effect).total_seconds() if alarm and facts.effect else None,
        "confidence": diagnosis.confidence if diagnosis and top else None,
    }


def _blames(diagnosis: Diagnosis) -> bool:
    return diagnosis.fault and not diagnosis.abstain


def _outcome(diagnosis: Diagnosis | None, label: Label, grains: dict[str, dict[str, Any]]) -> str:
    if diagnosis is None:
        return "failed"
    if diagnosis.abstain:
        return "abstained"
    if not label.fault:
        return "false-blame" if diagnosis.fault else "right"
    if not diagnosis.fault:
        return "missed"
    if grains["joint"]["ac1"]:
        return "right"
    return "partial" if any(grains[name]["ac1"] for name in ("component", "endpoint", "stage")) else "wrong"


def _detected(diagnosis: Diagnosis | None, label: Label) -> bool:
    if diagnosis is None:
        return False
    if diagnosis.abstain:
        return not label.fault
    return diagnosis.fault == label.fault
