"""Answers in a chain of hashes: each bound to its evidence, to all answers before it, and to a moment before the reveal."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.atomic import write_atomic
from storage.canonical import canonical_bytes
from storage.layout import RunPaths
from storage.seal import sha256_file

CHAIN = "chain.jsonl"
REVEAL = "reveal.json"
#: The reader's notes of an answer: every call that was made for it.
CALLS = ".calls.jsonl"
#: What was said between an agent and those who serve it, where there was any talk.
TRANSCRIPT = ".transcript.jsonl"


@dataclass
class Answers:
    """What lies in a run's answers: ``kept`` may be judged, ``refused`` not (late, or of more than its tier).

    ``problems`` say what was altered: while there are any, nothing may be judged. ``head`` is the hash of the whole chain.
    """

    kept: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    head: str = hashlib.sha256(b"").hexdigest()


def keep_answer(paths: RunPaths, answer: dict[str, Any], calls: str, transcript: str = "") -> dict[str, Any]:
    """Write notes and transcript, the answer with their hashes, then its link: hash of the answer and of the chain so far."""
    paths.answers.mkdir(exist_ok=True)
    name = answer_name(answer["diagnoser"], answer["tier"])
    attached = {f"{Path(name).stem}{CALLS}": calls}
    attached |= {f"{Path(name).stem}{TRANSCRIPT}": transcript} if transcript else {}
    for beside, text in attached.items():
        write_atomic(paths.answers / beside, text.encode())
    hashes = {beside: sha256_file(paths.answers / beside) for beside in attached}
    text = json.dumps(answer | {"attached": hashes}, indent=2)
    write_atomic(paths.answers / name, text.encode() + b"\n")
    chain = paths.answers / CHAIN
    before = chain.read_bytes() if chain.exists() else b""
    link = {"answer": name, "sha256": sha256_file(paths.answers / name), "before": hashlib.sha256(before).hexdigest()}
    write_atomic(chain, before + canonical_bytes(link) + b"\n")
    written: dict[str, Any] = json.loads(text)
    return written


def answer_name(diagnoser: str, tier: str) -> str:
    """File name of an answer."""
    return f"{diagnoser}-{tier}.json"


def is_revealed(paths: RunPaths) -> bool:
    """Whether label and salt of the case have been published."""
    return (paths.answers / REVEAL).exists()


def read_answers(paths: RunPaths) -> Answers:
    """Every answer of the chain, the latest of each name, checked against its hash, its evidence, its tier and the reveal."""
    found = Answers()
    links, late = _read_chain(paths, found)
    manifest_path = paths.evidence / "manifest.json"
    evidence = sha256_file(manifest_path) if manifest_path.exists() else ""
    tiers: dict[str, list[str]] = json.loads(manifest_path.read_bytes())["tiers"] if evidence else {}
    for name, digest in sorted(links.items()):
        path = paths.answers / name
        if not _is(path, digest):
            found.problems.append(f"{name}: altered or missing")
            continue
        answer: dict[str, Any] = json.loads(path.read_bytes())
        notes = paths.answers / f"{path.stem}{CALLS}"
        spoilt = [beside for beside, told in answer["attached"].items() if not _is(paths.answers / beside, told)]
        if answer["manifest_sha256"] != evidence:
            found.problems.append(f"{name}: given on other evidence")
        elif spoilt or notes.name not in answer["attached"]:
            found.problems.append(f"{', '.join(spoilt) or notes.name}: altered or missing")
        elif name in late:
            found.refused.append({"answer": name, "reason": "it came after the reveal"})
        elif beyond := _beyond_tier(notes, set(tiers.get(answer["tier"], ()))):
            found.refused.append(
                {"answer": name, "reason": f"it was served {beyond}, which tier {answer['tier']} does not have"}
            )
        else:
            found.kept.append(answer)
    strangers = sorted({path.name for path in paths.answers.glob("*.json")} - links.keys() - {REVEAL})
    found.problems += [f"{name}: an answer outside the chain" for name in strangers]
    return found


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest


def _read_chain(paths: RunPaths, found: Answers) -> tuple[dict[str, str], set[str]]:
    """(answer file -> its latest hash, those whose latest link is after the reveal). No chain means no answers yet."""
    links: dict[str, str] = {}
    late: set[str] = set()
    chain = paths.answers / CHAIN
    closed = json.loads((paths.answers / REVEAL).read_bytes())["chain_sha256"] if is_revealed(paths) else ""
    before, open_still = b"", True
    for line in chain.read_bytes().splitlines(keepends=True) if chain.exists() else ():
        open_still = open_still and hashlib.sha256(before).hexdigest() != closed
        try:
            link = json.loads(line)
            fits = link["before"] == hashlib.sha256(before).hexdigest()
            links[link["answer"]] = link["sha256"]
            late |= set() if open_still else {link["answer"]}
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            found.problems.append(f"{chain.name}: broken")
            break
        before += line
    found.head = hashlib.sha256(before).hexdigest()
    if closed and open_still and closed != found.head:
        found.problems.append(f"{chain.name}: not the one that the reveal closed")
    return links, late


def _beyond_tier(notes: Path, allowed: set[str]) -> str:
    """A file of the case that was served although its tier does not have it, or an empty text."""
    calls = [json.loads(line) for line in notes.read_text().splitlines()]
    served = (str(call.get("path")) for call in calls if call.get("path") and not call["error"])
    return next((path for path in served if path not in allowed), "")
