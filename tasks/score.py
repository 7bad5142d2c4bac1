"""Open the truth, check every seal, judge the answers, write ``score.json``."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diagnosis.answer import parse_diagnosis
from diagnosis.score import Facts, judge
from diagnosis.vocabulary import Vocabulary, read_vocabulary
from storage import truth
from storage.atomic import write_atomic
from storage.layout import RunPaths
from storage.records import SCHEMA_VERSION, Label, to_dict
from storage.seal import sha256_file, verify_seal
from tasks.diagnose import CHAIN
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
        **{key: outcome[key] for key in ("scenario", "arm", "seed", "hop")},
        "scored_s": time.time(),
        "verdicts": [_verdict(answer, _Opened(neutral, facts, vocabulary, manifest, own)) for answer in answers],
    }
    text = json.dumps(score, indent=2, allow_nan=False)
    write_atomic(paths.score, text.encode() + b"\n")
    written: dict[str, Any] = json.loads(text)
    return written


def standings(scores: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scores of several runs as one row per diagnoser and tier: rates with intervals next to chance (`diagnosis.summary`)."""
    # Imported here: the interval brings all of scipy, which scoring one run does not need.
    from diagnosis.summary import summarise

    return summarise({**verdict, "scenario": score["scenario"]} for score in scores for verdict in score["verdicts"])


def _checked_answers(paths: RunPaths, label: Label) -> list[dict[str, Any]]:
    manifest = paths.evidence / "manifest.json"
    problems = verify_seal(paths)
    if not problems:
        problems = verify_seal(paths, committed(label, manifest), truth.load_salt(paths))
    links, broken = _read_chain(paths.answers / CHAIN)
    problems += broken
    answers = []
    for name, digest in sorted(links.items()):
        answer, wrong = _read_answer(paths.answers / name, digest, sha256_file(manifest) if manifest.exists() else "")
        problems += wrong
        answers.append(answer)
    strangers = sorted({path.name for path in paths.answers.glob("*.json")} - links.keys())
    problems += [f"{name}: an answer outside the chain" for name in strangers]
    if problems:
        raise SealBrokenError(f"run {paths.run_id} is not scored: {'; '.join(problems)}")
    return answers


def _read_chain(chain: Path) -> tuple[dict[str, str], list[str]]:
    """(answer file -> its latest hash, what is wrong). No chain means no answers yet."""
    links: dict[str, str] = {}
    before = b""
    for line in chain.read_bytes().splitlines(keepends=True) if chain.exists() else ():
        try:
            link = json.loads(line)
            fits = link["before"] == hashlib.sha256(before).hexdigest()
            links[link["answer"]] = link["sha256"]
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            return links, [f"{chain.name}: broken"]
        before += line
    return links, []


def _read_answer(path: Path, digest: str, manifest_sha256: str) -> tuple[dict[str, Any], list[str]]:
    if not path.is_file() or sha256_file(path) != digest:
        return {}, [f"{path.name}: altered or missing"]
    answer: dict[str, Any] = json.loads(path.read_bytes())
    fits = answer["manifest_sha256"] == manifest_sha256
    return answer, [] if fits else [f"{path.name}: given on other evidence"]


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
    try:
        diagnosis = parse_diagnosis(said, case.manifest) if said else None
        verdict = judge(diagnosis, case.label, case.vocabulary, case.facts)
    except ValueError as error:
        verdict = {"outcome": "unknown", "reason": str(error), "grains": {}, "detected": None}
    top = said["ranked"][0] if said and said["ranked"] else None
    return {
        **verdict,
        "reason": verdict["reason"] or answer["reason"],
        "diagnoser": answer["diagnoser"],
        "tier": answer["tier"],
        "top": {**top, "component": case.own.get(top["component"], "")} if top else None,
        "after_reveal": answer["after_reveal"],
        "meter": answer["meter"],
        "wall_s": answer["wall_s"],
        "isolation": answer["isolation"],
    }
