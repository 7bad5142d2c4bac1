"""Measure diagnosers on one split of a set: diagnose, score, and write down that the split was opened."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diagnosis.environment import offered
from storage.jsonlines import read_json_lines
from tasks.benchmark import run_by_case
from tasks.diagnose import diagnose_run
from tasks.score import score_run, standings

OPENINGS = "openings.jsonl"


def measure(
    out: Path, split: str, names: list[str] | None, tiers: list[str] | None, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row a diagnoser and tier (`tasks.score.standings`) over the split's cases, whose runs lie in this home.

    Each call is a line of ``openings.jsonl`` beside the set: a held-out split that was opened twice says so. Raises ValueError
    for a split without cases, KeyError for a case whose run is not here.
    """
    wanted = [case["case_id"] for case in json.loads((out / "index.json").read_bytes())["cases"] if case["split"] == split]
    if not wanted:
        raise ValueError(f"the set has no case in split {split!r}")
    runs = run_by_case()
    opened = {"split": split, "cases": len(wanted), "diagnosers": names, "tiers": tiers, "opened_s": time.time()}
    with (out / OPENINGS).open("a") as log:
        log.write(json.dumps(opened) + "\n")
    before = [line for line in read_json_lines(out / OPENINGS)[0] if line["split"] == split]
    progress(f"split {split}: opened {len(before)} times so far, this one included")
    chosen = {"names": names or offered()} | ({"tiers": tiers} if tiers else {})
    scores = []
    for number, case in enumerate(wanted, 1):
        diagnose_run(runs[case], **chosen)
        scores.append(score_run(runs[case]))
        progress(f"{number} of {len(wanted)}")
    return standings(scores)
