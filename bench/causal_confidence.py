"""How often `causal` was right in development, by what it rested on: the table from which it takes its confidence.

    python -m bench.causal_confidence HOME [HOME ...]

Of every sealed, valid run of these homes that is a case (a fault that mattered, or none) each tier is diagnosed within this
process. Prints `DEVELOPMENT` of `diagnosis/diagnosers/causal.py`, and of how many cases each tier was right altogether. Never
to be run on a home with held-out cases: what is kept of them here would be tuning.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from diagnosis.diagnosers.causal import decide, decisive_of, gathered, ground, sight_of
from diagnosis.reader import EvidenceReader
from diagnosis.story import Story
from diagnosis.vocabulary import TIERS, read_vocabulary
from injection.sweep import HELD_OUT, PREFIX, split_of
from report.impact import impact
from storage import truth
from storage.layout import RunPaths
from storage.records import Cause, Label
from tasks.healthy import healthy_runs
from tasks.outcome import open_case, outcome_of
from tasks.seal import seal_run


def main(argv: list[str]) -> int:
    """See the module's text."""
    runs = [RunPaths(root) for home in argv for root in sorted(Path(home, "runs").iterdir())]
    counts: dict[str, dict[str, Counter[str]]] = {}
    total: dict[str, Counter[str]] = {tier: Counter() for tier in TIERS}
    for paths, label in cases(runs):
        vocabulary = read_vocabulary(json.loads((paths.evidence / "manifest.json").read_bytes()))
        names = truth.load_names(paths)
        for tier in TIERS:
            reader = EvidenceReader(paths.evidence, tier)
            story = Story(reader, vocabulary)
            signs, sight = gathered(reader, story), sight_of(reader, story)
            said = decide(story, signs, sight)
            first = said.ranked[0] if said.fault else None
            right = is_right(first, label, names)
            total[tier].update(["n", *(["right"] if right else [])])
            if first is not None:
                told = counts.setdefault(sight, {}).setdefault(ground(decisive_of(signs, vocabulary)), Counter())
                told.update(["n", *(["right"] if right else [])])
    for sight, grounds in counts.items():
        sys.stdout.write(f'    "{sight}": {{\n')
        for name, told in sorted(grounds.items()):
            sys.stdout.write(f'        "{name}": ({told["right"]}, {told["n"]}),\n')
        sys.stdout.write("    },\n")
    for tier, told in total.items():
        sys.stdout.write(f"{tier}: {told['right']} of {told['n']}\n")
    return 0


def is_right(first: Cause | None, label: Label, names: dict[str, str]) -> bool:
    """Whether component, stage and kind are those of the label; where there was no fault, whether nobody is accused."""
    if first is None or not label.fault:
        return first is None and not label.fault
    return (first.component, first.stage) == (names[label.component], label.stage) and first.kind in label.kinds


def cases(runs: list[RunPaths]) -> Iterator[tuple[RunPaths, Label]]:
    """Valid runs of development that are cases, sealed now where they were not, with their labels."""
    plans = {paths.root: truth.load_plan(paths) for paths in runs if paths.plan.exists() and paths.table("logs").exists()}
    known = [paths for paths in runs if paths.root in plans]
    for paths in known:
        plan = plans[paths.root]
        # By the name, so that it holds for cells that the sweep had once as well.
        held_out = plan["scenario"].startswith(PREFIX) and split_of(plan["scenario"]) == HELD_OUT
        if held_out or not outcome_of(paths)["valid"]:
            continue
        near = healthy_runs(paths, plan, known)
        told = impact(open_case(paths), [open_case(run, tables=("metrics",)) for run in near])
        if not paths.evidence.exists():
            seal_run(paths, known)
        label = truth.load_label(paths)
        if label.fault == (told != "none"):
            yield paths, label


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
