"""Open the truth, check every seal, judge the answers, write ``score.json``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from diagnosis.answer import parse_diagnosis
from diagnosis.sandbox import UNKNOWN
from diagnosis.score import Facts, judge
from diagnosis.vocabulary import Vocabulary, read_vocabulary
from storage import truth
from storage.atomic import write_atomic
from storage.layout import RunPaths
from storage.records import SCHEMA_VERSION, Label, to_dict
from storage.seal import sha256_file, verify_seal
from tasks.answers import Answers, read_answers
from tasks.facts import facts_of
from tasks.outcome import outcome_of
from tasks.seal import committed


class SealBrokenError(ValueError):
    """Evidence, label or answers are not as they were sealed; the message says which. No score is given."""


def score_run(paths: RunPaths) -> dict[str, Any]:
    """Judge every answer of a sealed run and write ``score.json``. Raises SealBrokenError instead of scoring what was altered.

    The score names components as the job does; each verdict is `diagnosis.score.judge`'s with diagnoser, tier, the top
    cause and the effort.
    """
    label, names = truth.load_label(paths), truth.load_names(paths)
    answers = _checked_answers(paths, label)
    manifest = json.loads((paths.evidence / "manifest.json").read_text())
    vocabulary = read_vocabulary(manifest)
    neutral = replace(label, component=names.get(label.component, ""), peer=names.get(label.peer, ""))
    own = {name: component for component, name in names.items()}
    outcome = outcome_of(paths)
    facts = facts_of(paths, neutral, names, outcome, manifest)
    score = {
        "schema_version": SCHEMA_VERSION,
        "case_id": manifest["case_id"],
        "manifest_sha256": sha256_file(paths.evidence / "manifest.json"),
        "label": to_dict(label),
        "impact": truth.load_impact(paths) or outcome["impact"],
        "decoy": bool(truth.load_plan(paths).get("decoy")),
        **{key: outcome[key] for key in ("scenario", "arm", "seed", "hop")},
        "scored_s": time.time(),
        "verdicts": [_verdict(answer, _Opened(neutral, facts, vocabulary, manifest, own)) for answer in answers.kept],
        "refused": answers.refused,
    }
    text = json.dumps(score, indent=2, allow_nan=False)
    write_atomic(paths.score, text.encode() + b"\n")
    written: dict[str, Any] = json.loads(text)
    return written


def standings(scores: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scores of several runs as one row per diagnoser and tier: rates with intervals next to chance (`diagnosis.summary`)."""
    # Imported here: the interval brings all of scipy, which scoring one run does not need.
    from diagnosis.summary import summarise

    return summarise(verdicts_of(scores))


def verdicts_of(scores: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every verdict of several runs, with its case's scenario and whether that was a decoy."""
    for score in scores:
        case = {"scenario": score["scenario"], "decoy": score.get("decoy", False)}
        yield from ({**verdict, **case} for verdict in score["verdicts"])


def _checked_answers(paths: RunPaths, label: Label) -> Answers:
    manifest = paths.evidence / "manifest.json"
    problems = verify_seal(paths) or verify_seal(paths, committed(label, manifest), truth.load_salt(paths))
    answers = read_answers(paths)
    if problems + answers.problems:
        raise SealBrokenError(f"run {paths.run_id} is not scored: {'; '.join(problems + answers.problems)}")
    return answers


@dataclass(frozen=True)
class _Opened:
    """A case whose truth is open: label and facts in neutral names; ``own`` maps them back to the job's."""

    label: Label
    facts: Facts
    vocabulary: Vocabulary
    manifest: dict[str, Any]
    own: dict[str, str]


def _verdict(answer: dict[str, Any], case: _Opened) -> dict[str, Any]:
    said = answer["diagnosis"]
    verdict = _unknown(answer["reason"]) if answer["status"] == UNKNOWN else _judged(said, case)
    top = said["ranked"][0] if said and said["ranked"] else None
    return {
        **verdict,
        "reason": verdict["reason"] or answer["reason"],
        "diagnoser": answer["diagnoser"],
        "tier": answer["tier"],
        "top": {**top, "component": case.own.get(top["component"], "")} if top else None,
        "after_score": answer["after_score"],
        "meter": answer["meter"],
        "wall_s": answer["wall_s"],
        "isolation": answer["isolation"],
    }


def _judged(said: dict[str, Any] | None, case: _Opened) -> dict[str, Any]:
    try:
        diagnosis = parse_diagnosis(said, case.manifest) if said else None
    except ValueError as error:
        return _unknown(str(error))
    return judge(diagnosis, case.label, case.vocabulary, case.facts)


def _unknown(reason: str) -> dict[str, Any]:
    """The judge failed, not the diagnoser."""
    return {"outcome": "unknown", "reason": reason, "grains": {}, "detected": None}
