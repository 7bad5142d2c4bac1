"""What each signal of the causal diagnoser is worth: the same cases again, with one signal left out at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from diagnosis.diagnosers import causal
from diagnosis.reader import EvidenceReader
from diagnosis.score import judge
from diagnosis.vocabulary import read_vocabulary
from storage import truth
from storage.layout import RunPaths

TIERS = ("T1", "T3")
SIGNALS = ("", *causal.SIGNALS, "gauge")


def ablation(cases: list[RunPaths]) -> list[list[str]]:
    """Rows of: signal left out ("-": none), tier, right of all cases, component right, false blame; unsandboxed, same code."""
    return [[signal or "-", tier, *_counted(signal, tier, cases)] for tier in TIERS for signal in SIGNALS]


def _counted(signal: str, tier: str, cases: list[RunPaths]) -> list[str]:
    verdicts = [_verdict(paths, tier, frozenset({signal})) for paths in cases]
    faulty = [verdict for verdict in verdicts if verdict["grains"]]
    quiet = len(verdicts) - len(faulty)
    return [
        f"{sum(verdict['outcome'] == 'right' for verdict in verdicts)}/{len(verdicts)}",
        f"{sum(verdict['grains']['component']['ac1'] for verdict in faulty)}/{len(faulty)}",
        f"{sum(verdict['outcome'] == 'false-blame' for verdict in verdicts)}/{quiet}",
    ]


def _verdict(paths: RunPaths, tier: str, without: frozenset[str]) -> dict[str, Any]:
    label, names = truth.load_label(paths), truth.load_names(paths)
    neutral = replace(label, component=names.get(label.component, ""), peer=names.get(label.peer, ""))
    words = read_vocabulary(json.loads((paths.evidence / "manifest.json").read_text()))
    return judge(causal.diagnose(EvidenceReader(paths.evidence, tier), words, without), neutral, words)
