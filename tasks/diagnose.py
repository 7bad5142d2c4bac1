"""Let diagnosers work on a sealed run, each in its sandbox, and keep their answers in a chain of hashes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from typing import Any

from diagnosis.run import MODULES
from diagnosis.sandbox import Attempt, attempt, builtin
from diagnosis.vocabulary import TIERS
from storage.atomic import write_atomic
from storage.canonical import canonical_bytes
from storage.layout import RunPaths
from storage.records import SCHEMA_VERSION, to_dict
from storage.seal import sha256_file, verify_seal

CHAIN = "chain.jsonl"


def diagnose_run(
    paths: RunPaths, names: Iterable[str] | None = None, tiers: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """Run diagnosers on tiers (default: all on all); returns what was written to ``answers/<diagnoser>-<tier>.json``.

    A diagnoser that fails has an answer without a diagnosis and with the reason. Raises ValueError for an unknown name or
    tier, and for evidence that is not as it was sealed. An answer given after the score was written is marked as such.
    """
    chosen, levels = list(MODULES if names is None else names), list(TIERS if tiers is None else tiers)
    files = {name: builtin(name) for name in chosen}
    unknown = [tier for tier in levels if tier not in TIERS]
    if unknown:
        raise ValueError(f"no tier {unknown[0]!r}; there are {', '.join(TIERS)}")
    problems = verify_seal(paths)
    if problems:
        raise ValueError(f"run {paths.run_id} cannot be diagnosed: {'; '.join(problems)}")
    paths.answers.mkdir(exist_ok=True)
    return [
        _keep(paths, _answer(paths, name, tier, attempt(files[name], paths.evidence, tier), sha256_file(files[name])))
        for name in chosen
        for tier in levels
    ]


def _answer(paths: RunPaths, name: str, tier: str, came: Attempt, code_sha256: str) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "diagnoser": name,
        "tier": tier,
        "diagnosis": to_dict(came.diagnosis) if came.diagnosis else None,
        "status": came.status,
        "reason": came.reason,
        "meter": came.meter,
        "isolation": came.isolation,
        "wall_s": round(came.wall_s, 4),
        "answered_s": time.time(),
        "after_reveal": paths.score.exists(),
        "code_sha256": code_sha256,
        "manifest_sha256": sha256_file(paths.evidence / "manifest.json"),
    }


def _keep(paths: RunPaths, answer: dict[str, Any]) -> dict[str, Any]:
    """Write the answer, then its link of the chain: hash of the answer and of the chain so far."""
    name = answer_name(answer["diagnoser"], answer["tier"])
    text = json.dumps(answer, indent=2)
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
