"""Let diagnosers work on a sealed run, each in its sandbox, and keep their answers in a chain of hashes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from diagnosis.environment import interpreter_of
from diagnosis.run import MODULES, tiers_of
from diagnosis.sandbox import UNKNOWN, Attempt, attempt_by, builtin, code_sha256
from diagnosis.vocabulary import TIERS
from storage.layout import RunPaths
from storage.records import SCHEMA_VERSION, to_dict
from storage.seal import sha256_file, verify_seal
from tasks.answers import is_revealed, keep_answer, read_answers


def diagnose_run(
    paths: RunPaths,
    names: Iterable[str] | None = None,
    tiers: Iterable[str] | None = None,
    *,
    again: bool = True,
    at_once: int = 1,
) -> list[dict[str, Any]]:
    """Run diagnosers on tiers (default: each on its own); returns what was written to ``answers/<diagnoser>-<tier>.json``.

    Who is asked when nobody is named are those that need nothing but the lab: an experiment must not take longer, or end
    otherwise, where RCAEval's environment happens to be. Those of `diagnosis.environment.offered` are asked by name.

    A diagnoser that fails has an answer without a diagnosis and with the reason. Raises ValueError for an unknown name or
    tier, for a diagnoser without its environment, for evidence that is not as it was sealed, and for a case that is revealed.
    An answer given after the score was written is marked as such. Unless ``again``, what the same code has answered already
    is left as it is, also of a case that is revealed. So many run ``at_once``, which makes each of them slower.
    """
    asked = _asked(MODULES if names is None else names, None if tiers is None else tuple(tiers))
    code = {name: code_sha256(builtin(name)) for name, _ in asked}
    if not again:
        done = {(one["diagnoser"], one["tier"], one["code_sha256"]) for one in read_answers(paths).kept if _final(one)}
        asked = [(name, tier) for name, tier in asked if (name, tier, code[name]) not in done]
        if not asked:
            return []
    if is_revealed(paths):
        raise ValueError(f"run {paths.run_id} is revealed: no answer counts any more")
    problems = verify_seal(paths)
    if problems:
        raise ValueError(f"run {paths.run_id} cannot be diagnosed: {'; '.join(problems)}")
    with ThreadPoolExecutor(at_once) as pool:  # each is two processes; the threads do nothing but wait for them
        attempts = pool.map(lambda pair: attempt_by(pair[0], paths.evidence, pair[1]), asked)
        return [
            keep_answer(paths, answer_of(paths, name, tier, came, code[name]), came.calls)
            for (name, tier), came in zip(asked, attempts, strict=True)
        ]


def _asked(names: Iterable[str], tiers: tuple[str, ...] | None) -> list[tuple[str, str]]:
    """Who is asked on which tier. Raises ValueError for an unknown name or tier, and without the environment that one needs."""
    asked: list[tuple[str, str]] = []
    for name in dict.fromkeys(names):
        builtin(name)
        interpreter_of(name)
        asked += [(name, tier) for tier in (tiers_of(name) if tiers is None else tiers)]
    unknown = [tier for _, tier in asked if tier not in TIERS]
    if unknown:
        raise ValueError(f"no tier {unknown[0]!r}; there are {', '.join(TIERS)}")
    return asked


def _final(answer: dict[str, Any]) -> bool:
    """Whether it stands: an attempt that our own side broke is made again."""
    return bool(answer["status"] != UNKNOWN)


def answer_of(paths: RunPaths, name: str, tier: str, came: Attempt, code: str) -> dict[str, Any]:
    """What is written of an attempt: who, on what, when, with which code, and what came of it."""
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
        "after_score": paths.score.exists(),
        "code_sha256": code,
        "manifest_sha256": sha256_file(paths.evidence / "manifest.json"),
    }
