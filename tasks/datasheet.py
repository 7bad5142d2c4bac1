"""What a published set says of itself: a datasheet without a word about any single case, and a loader of ten lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from report.impact import SLOW
from tasks.cells import DECOY, QUIET, Wanted, draw_sorts

LOADER = '''"""Read the set: `for case in cases(): ...`; no dependency, no label."""
import json, pathlib

ROOT = pathlib.Path(__file__).parent

def cases(tier="T3", split=None):
    for entry in json.loads((ROOT / "index.json").read_text())["cases"]:
        if split in (None, entry["split"]):
            folder = ROOT / "cases" / entry["case_id"]
            manifest = json.loads((folder / "manifest.json").read_text())
            yield manifest, {path: (folder / path).read_text() for path in manifest["tiers"][tier]}
'''

PAGE = """# Datasheet

**What it is.** {cases} sealed cases of a small RLHF training job (GRPO; real processes, sockets and checkpoints, on one
machine), each a run of minutes. In about {quiet} of them nothing was done to the job, in about {decoy} something harmless was
(a decoy: the right answer is that nothing is wrong). In the others one fault, or a composition, was put into force at a
drawn step, stage and worker, was proven by a probe of its own to have taken effect and to be gone again, and mattered to the
job: errors, steps not done, or without a word a step of more than {slow:g} times the longest of the healthy runs, weights
older than any of theirs, or next to no reward.

**Task.** Say whether something is wrong and, if so, its root: component, stage and kind, from the vocabularies in
`manifest.json`.

**Splits.** {splits}. Tune on `development` alone.

**Tiers.** T0 the controller's log; T1 every log; T2 coarse metrics and healthy runs of the same job besides; T3 fine metrics.
Nested: declare one.

**Made by** `faultline benchmark build` with seed {seed}, profile `{profile}`; code versions of the runs: {versions}.
Components and hosts have neutral names, drawn anew for each case; each run's clock is moved by one whole number of seconds;
sanitiser rules {rules}; log lines dropped because something in them was not known: {dropped}. Healthy runs of cases are never
cases. {sizes} Runs that are no cases, so that others were taken: {left_out}.

**Labels** are not here. `commitment.txt` of a case is the SHA-256 of its label, the hash of its manifest and 32 secret bytes;
after the reveal `faultline verify-seal` opens it. Answers count only before that.

**What it is not.** One machine of few cores, a model of a hundred thousand parameters, time-outs scaled from hours to seconds;
no GPU figures. A posture or configuration of the job may suggest the scenario from which a case comes, not whether anything
was done in it.

**Licence.** That of the project, in `LICENSE`.
"""


def shares(wanted: Wanted) -> dict[str, str]:
    """Of which share of the cases there was to be nothing, and of which something harmless."""
    counts = {sort.name: sort.count for sort in draw_sorts(wanted)}
    return {name: f"{counts[name] / wanted.cases:.0%}" for name in (QUIET, DECOY)}


def datasheet(
    index: Mapping[str, Any],
    manifests: Sequence[Mapping[str, Any]],
    versions: Mapping[str, int],
    wanted: Wanted,
    left_out: Mapping[str, int],
) -> str:
    """The page, in Markdown. Counts are of the whole set: what is told of one case would be a hint."""
    cases = index["cases"]
    splits = Counter(case["split"] for case in cases)
    dropped: Counter[str] = Counter()
    for manifest in manifests:
        dropped += Counter(manifest["sanitiser"]["lines_dropped"])
    sizes = [sum(told["bytes"] for told in manifest["files"].values()) for manifest in manifests]
    rules = ", ".join(sorted({str(manifest["sanitiser"]["rules_version"]) for manifest in manifests}))
    told = {
        "cases": len(cases),
        **shares(wanted),
        "slow": SLOW,
        "splits": ", ".join(f"{name}: {count}" for name, count in sorted(splits.items())),
        "seed": wanted.seed,
        "profile": wanted.profile,
        "versions": ", ".join(f"`{version[:12] or 'unknown'}` ({count})" for version, count in sorted(versions.items())),
        "rules": rules,
        "left_out": ", ".join(f"{count} because {reason}" for reason, count in sorted(left_out.items())) or "none",
        "dropped": str(dict(sorted(dropped.items())) or "none"),
        "sizes": f"Cases have {min(sizes) / 1e6:.1f} to {max(sizes) / 1e6:.1f} MB." if sizes else "There are none.",
    }
    return PAGE.format(**told)
