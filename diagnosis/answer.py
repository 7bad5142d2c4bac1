"""Read what a diagnoser printed, trusting nothing: types, closed vocabularies and sizes are checked first."""

from __future__ import annotations

import math
import re
from typing import Any

from storage.records import Cause, Diagnosis

MAX_RANKED = 1000
MAX_TEXT = 2000
METER = ("calls", "files", "lines", "bytes")
_CLOCK = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}")


class MalformedAnswerError(ValueError):
    """The text is no answer; the message says why."""


def parse_diagnosis(data: Any, manifest: dict[str, Any]) -> Diagnosis:
    """A Diagnosis from plain JSON types. Raises MalformedAnswerError for anything outside the contract."""
    if not isinstance(data, dict):
        raise MalformedAnswerError("it is no object")
    _require(isinstance(data.get("fault"), bool) and isinstance(data.get("abstain", False), bool), "fault is not true or false")
    ranked = data.get("ranked")
    if not isinstance(ranked, list) or len(ranked) > MAX_RANKED:
        raise MalformedAnswerError(f"ranked is not a list of at most {MAX_RANKED} causes")
    words = manifest["vocabulary"]
    chain, reason, alarm = data.get("chain", []), data.get("reason", ""), data.get("alarm", "")
    _require(isinstance(chain, list) and all(c in words["components"] for c in chain[:MAX_RANKED]), "chain names no component")
    _require(isinstance(reason, str), "reason is not text")
    _require(isinstance(alarm, str) and (not alarm or _CLOCK.fullmatch(alarm) is not None), "alarm is no clock reading")
    diagnosis = Diagnosis(
        fault=data["fault"],
        ranked=tuple(_cause(cause, words) for cause in ranked),
        abstain=data.get("abstain", False),
        confidence=_confidence(data.get("confidence")),
        chain=tuple(chain[:MAX_RANKED]),
        reason=reason[:MAX_TEXT],
        alarm=alarm,
    )
    blames = diagnosis.fault and not diagnosis.abstain
    _require(bool(diagnosis.ranked) == blames, "causes belong to a fault that is claimed, and only there")
    return diagnosis


def _cause(data: Any, words: dict[str, list[str]]) -> Cause:
    _require(isinstance(data, dict), "a cause is not an object")
    for key, allowed in (("component", "components"), ("stage", "stages"), ("kind", "kinds")):
        _require(data.get(key) in words[allowed], f"{key} {str(data.get(key))[:60]!r} is not in the vocabulary")
    return Cause(data["component"], data["stage"], data["kind"])


def _confidence(value: Any) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    _require(is_number and math.isfinite(value) and 0 <= value <= 1, "confidence is not between 0 and 1")
    return float(value)


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise MalformedAnswerError(reason)
