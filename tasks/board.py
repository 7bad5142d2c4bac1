"""Measure diagnosers on splits of a set: diagnose, score, and write down that the split was opened."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diagnosis.environment import offered
from storage.jsonlines import read_json_lines
from storage.layout import RunPaths
from tasks.benchmark import run_by_case
from tasks.diagnose import diagnose_run
from tasks.score import score_run

OPENINGS = "openings.jsonl"

Progress = Callable[[str], None]
Score = dict[str, Any]


def measure(
    out: Path,
    splits: Sequence[str],
    names: list[str] | None,
    tiers: list[str] | None,
    progress: Progress,
    at_once: int = 1,
) -> dict[RunPaths, Score]:
    """The score of every case of the splits (none: all there are), with its ``split``; the runs lie in this home.

    What was diagnosed by the same code is not diagnosed again. Each split is a line of ``openings.jsonl`` beside the set: a
    held-out one that was opened twice says so. With ``names`` (``tiers``) verdicts of others are left out. Raises ValueError
    for a split without cases, KeyError for a case whose run is not here.
    """
    cases = json.loads((out / "index.json").read_bytes())["cases"]
    there = sorted({case["split"] for case in cases})
    for split in splits:
        if split not in there:
            raise ValueError(f"the set has no case in split {split!r}; there are: {', '.join(there)}")
    for split in splits or there:
        _opened(out, split, sum(case["split"] == split for case in cases), names, tiers, progress)
    wanted = [case for case in cases if case["split"] in (splits or there)]
    runs, scores = run_by_case(), {}
    for number, case in enumerate(wanted, 1):
        paths = runs[case["case_id"]]
        made = diagnose_run(paths, names or offered(), tiers, again=False, at_once=at_once)
        score = score_run(paths)
        verdicts = [v for v in score["verdicts"] if v["diagnoser"] in (names or [v["diagnoser"]])]
        verdicts = [v for v in verdicts if v["tier"] in (tiers or [v["tier"]])]
        scores[paths] = {**score, "verdicts": verdicts, "split": case["split"]}
        progress(f"{number} of {len(wanted)}: {len(made)} diagnoses made")
    return scores


def _opened(out: Path, split: str, cases: int, names: list[str] | None, tiers: list[str] | None, progress: Progress) -> None:
    """Write down that a split is looked at, and say how often it was."""
    opened = {"split": split, "cases": cases, "diagnosers": names, "tiers": tiers, "opened_s": time.time()}
    with (out / OPENINGS).open("a") as log:
        log.write(json.dumps(opened) + "\n")
    before = [line for line in read_json_lines(out / OPENINGS)[0] if line["split"] == split]
    progress(f"split {split}: opened {len(before)} times so far, this one included")
