"""Judge one answer against the label of its case.

Grains: ``component`` (exact; the source of a link), ``endpoint`` (either end of a link), ``role``, ``stage``, ``kind`` (any
of the injected ones) and ``joint`` (component, stage and kind in one cause). At each grain the ranked causes are reduced to
their distinct values, in order; then AC@1, AC@3 and the reciprocal rank are those of the first right one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diagnosis.chance import chance_at, chance_reciprocal_rank
from diagnosis.vocabulary import Vocabulary
from storage.records import Cause, Diagnosis, Label

GRAINS = ("component", "endpoint", "role", "stage", "kind", "joint")

#: How an answer came out. ``failed`` (no answer) counts as wrong; ``unknown`` (the judge failed) counts as nothing.
OUTCOMES = ("right", "partial", "wrong", "missed", "false-blame", "abstained", "failed", "unknown")

Value = str | tuple[str, str, str]


@dataclass(frozen=True)
class _Grain:
    """How to read one grain off a cause, which values are right, and how many there are to guess from."""

    value: Callable[[Cause], Value]
    right: frozenset[Value]
    candidates: int


def judge(diagnosis: Diagnosis | None, label: Label, vocabulary: Vocabulary) -> dict[str, Any]:
    """The verdict on one answer (None: the diagnoser gave none), as plain JSON types; label and answer in neutral names.

    ``grains`` is empty for a case without a fault: there is nothing to name. ``detected`` says whether the answer to "is
    anything wrong" was right; where nothing is wrong an abstention is right too, and is still counted as one. A failure of
    the judging itself gives ``unknown`` and no number.
    """
    try:
        grains = _score_grains(diagnosis, label, vocabulary) if label.fault else {}
        outcome = _outcome(diagnosis, label, grains)
    except Exception as error:  # whatever broke the judge, it must not become a number
        return {"outcome": "unknown", "reason": f"{type(error).__name__}: {error}", "grains": {}, "detected": None}
    return {"outcome": outcome, "reason": "", "grains": grains, "detected": _detected(diagnosis, label)}


def _score_grains(diagnosis: Diagnosis | None, label: Label, vocabulary: Vocabulary) -> dict[str, dict[str, Any]]:
    ranked = diagnosis.ranked if diagnosis and diagnosis.fault and not diagnosis.abstain else ()
    return {name: _score(ranked, grain) for name, grain in _grains(label, vocabulary).items()}


def _grains(label: Label, vocabulary: Vocabulary) -> dict[str, _Grain]:
    """The label must be expressible in the case's vocabulary: KeyError or ValueError otherwise."""
    if label.stage not in vocabulary.stages or not set(label.kinds) <= set(vocabulary.kinds) or not label.kinds:
        raise ValueError("the label is not in the case's vocabulary")
    components, stages, kinds = len(vocabulary.components), len(vocabulary.stages), len(vocabulary.kinds)
    same_role = vocabulary.of_role(vocabulary.roles[label.component])
    ends = {label.component, label.peer} - {""}
    joint = {(label.component, label.stage, kind) for kind in label.kinds}
    return {
        "component": _Grain(lambda c: c.component, frozenset({label.component}), components),
        "endpoint": _Grain(lambda c: c.component, frozenset(ends), components),
        "role": _Grain(lambda c: c.component, frozenset(same_role), components),
        "stage": _Grain(lambda c: c.stage, frozenset({label.stage}), stages),
        "kind": _Grain(lambda c: c.kind, frozenset(label.kinds), kinds),
        "joint": _Grain(lambda c: (c.component, c.stage, c.kind), frozenset(joint), components * stages * kinds),
    }


def _score(ranked: tuple[Cause, ...], grain: _Grain) -> dict[str, Any]:
    values = list(dict.fromkeys(grain.value(cause) for cause in ranked))
    rank = next((place for place, value in enumerate(values, 1) if value in grain.right), None)
    n, m = grain.candidates, len(grain.right)
    return {
        "rank": rank,
        "ac1": int(rank == 1),
        "ac3": int(rank is not None and rank <= 3),
        "reciprocal_rank": 1 / rank if rank else 0.0,
        "chance": {"ac1": chance_at(1, n, m), "ac3": chance_at(3, n, m), "reciprocal_rank": chance_reciprocal_rank(n, m)},
    }


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
