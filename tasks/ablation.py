"""What each signal of the causal diagnoser is worth: the same cases again, with one signal left out at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from diagnosis.diagnosers import causal
from diagnosis.reader import EvidenceReader
from diagnosis.score import judge
from diagnosis.story import Story
from diagnosis.vocabulary import read_vocabulary
from storage import truth
from storage.layout import RunPaths

TIERS = ("T1", "T3")


def ablation(cases: list[RunPaths]) -> list[list[str]]:
    """Rows of: signal left out ("-": none), tier, right of all cases, component right, false blame; unsandboxed, same code."""
    return [row for tier in TIERS for row in _of_tier(tier, cases)]


def _of_tier(tier: str, cases: list[RunPaths]) -> list[list[str]]:
    by_signal: dict[str, list[dict[str, Any]]] = {signal: [] for signal in ("-", *causal.SIGNALS)}
    for paths in cases:
        label, names = truth.load_label(paths), truth.load_names(paths)
        neutral = replace(label, component=names.get(label.component, ""), peer=names.get(label.peer, ""))
        words = read_vocabulary(json.loads((paths.evidence / "manifest.json").read_text()))
        reader = EvidenceReader(paths.evidence, tier)
        story = Story(reader, words)
        signs = causal.gathered(reader, story)
        for signal, verdicts in by_signal.items():
            left = [sign for sign in signs if sign.signal != signal]
            verdicts.append(judge(causal.decide(story, left), neutral, words))
    return [[signal, tier, *_counted(verdicts)] for signal, verdicts in by_signal.items()]


def _counted(verdicts: list[dict[str, Any]]) -> list[str]:
    faulty = [verdict for verdict in verdicts if verdict["grains"]]
    return [
        f"{sum(verdict['outcome'] == 'right' for verdict in verdicts)}/{len(verdicts)}",
        f"{sum(verdict['grains']['component']['ac1'] for verdict in faulty)}/{len(faulty)}",
        f"{sum(verdict['outcome'] == 'false-blame' for verdict in verdicts)}/{len(verdicts) - len(faulty)}",
    ]
