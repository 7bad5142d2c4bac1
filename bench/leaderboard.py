"""The leaderboard: seal, diagnose and score the stored runs of a home, blind and once, and write what came out with intervals.

    python -m bench.leaderboard PAGE ANSWERS [--development-until 504] [--sandboxed] [--within S]

Cases are the valid runs of FAULTLINE_HOME. Those with seeds up to `--development-until` were seen while diagnosers were
written: they are no cases here, their control runs are the healthy runs that come along (where a scenario has none of those,
its other control runs). Resumable: a case that has its score is done. PAGE is the Markdown page, ANSWERS one JSON line a case
with every answer and how it was judged.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from bench.ablation import ablation
from diagnosis.intervals import wilson
from diagnosis.pairs import compared, with_holm
from diagnosis.reader import EvidenceReader
from diagnosis.run import ASKED_ON, MODULES
from diagnosis.sandbox import ANSWERED, Attempt, builtin
from diagnosis.summary import summarise
from diagnosis.vocabulary import read_vocabulary
from report.outcome import invalid_because
from storage import truth
from storage.layout import RunPaths, runs_dir
from storage.seal import sha256_file
from tasks.answers import keep_answer
from tasks.diagnose import answer_of, diagnose_run
from tasks.score import score_run
from tasks.seal import seal_run

Score = dict[str, Any]
OURS = "causal"


def stored() -> dict[RunPaths, dict[str, Any]]:
    """Valid runs of this home and their plans; what has a score was valid when it was sealed."""
    runs = [RunPaths(root) for root in sorted(runs_dir().iterdir()) if (root / "truth/plan.json").exists()]
    return {paths: truth.load_plan(paths) for paths in runs if paths.score.exists() or not unproven(paths)}


def unproven(paths: RunPaths) -> list[str]:
    """Why the run is no case."""
    return invalid_because(truth.load_plan(paths), truth.load_history(paths))


def judged(options: argparse.Namespace) -> dict[RunPaths, Score]:
    """The score of every case; those that lack one are sealed, diagnosed and scored first."""
    runs, began, scores = stored(), time.monotonic(), {}
    cases = [paths for paths, plan in runs.items() if plan["seed"] > options.development_until]
    calm = [paths for paths, plan in runs.items() if plan["arm"] == "control"]
    known = {runs[paths]["scenario"] for paths in calm if paths not in cases}
    beside = [paths for paths in calm if paths not in cases or runs[paths]["scenario"] not in known]
    for number, paths in enumerate(cases, 1):
        if not paths.score.exists():
            if time.monotonic() - began > options.within:
                break
            if not paths.evidence.exists():
                seal_run(paths, beside)
            diagnose_run(paths) if options.sandboxed else unboxed(paths)
            score_run(paths)
            print(f"{number} of {len(cases)}", flush=True)
        scores[paths] = json.loads(paths.score.read_text())
    return scores


def unboxed(paths: RunPaths) -> None:
    """The lab's own diagnosers on their tiers within this process: the same answers in less time, told as isolation none."""
    words = read_vocabulary(json.loads((paths.evidence / "manifest.json").read_text()))
    for name, tiers in ASKED_ON.items():
        for tier in tiers:
            reader, began = EvidenceReader(paths.evidence, tier), time.monotonic()
            diagnosis = import_module(f"diagnosis.diagnosers.{MODULES[name]}").diagnose(reader, words)
            took_s = time.monotonic() - began
            came = Attempt(diagnosis, "", reader.meter.to_dict(), took_s, "none", ANSWERED)
            keep_answer(paths, answer_of(paths, name, tier, came, sha256_file(builtin(name))), "")


def verdicts(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """Every verdict with the scenario of its case."""
    return [{**verdict, "scenario": score["scenario"]} for score in scores for verdict in score["verdicts"]]


def rate(found: dict[str, Any]) -> str:
    """``0.93 [0.84, 0.97]``, with Wilson's interval."""
    return "-" if found["rate"] is None else f"{found['rate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def standings(scores: list[Score]) -> list[dict[str, Any]]:
    """A row each diagnoser and tier, the best joint accuracy first."""
    return sorted(summarise(verdicts(scores)), key=lambda row: -row["grains"]["joint"]["ac1"]["rate"])


def board(rows: list[dict[str, Any]]) -> list[str]:
    """What was right, and what was claimed."""
    head = [
        "diagnoser",
        "tier",
        "joint",
        "by scenario",
        "component",
        "stage",
        "kind",
        "misdiagnosis",
        "coverage",
        "false blame",
    ]
    return table(
        head,
        [
            [
                row["diagnoser"],
                row["tier"],
                rate(row["grains"]["joint"]["ac1"]),
                interval(row["grains"]["joint"]["ac1"]["clustered"]),
                *(rate(row["grains"][grain]["ac1"]) for grain in ("component", "stage", "kind")),
                *(rate(row[name]) for name in ("misdiagnosis", "coverage", "false_blame")),
            ]
            for row in rows
        ],
    )


def further(rows: list[dict[str, Any]], scores: list[Score]) -> list[str]:
    """Ranking, chance, bias, chain, calibration and effort, in the same order as the board."""
    told = verdicts(scores)
    head = [
        "diagnoser",
        "tier",
        "MRR joint (chance)",
        "Avg@5 component (chance)",
        "role",
        "either end",
        "host",
        "misled by stage",
    ]
    head += ["chain F1", "grounded", "Brier", "ECE", "lines", "s, median"]
    return table(
        head,
        [
            [
                row["diagnoser"],
                row["tier"],
                beside_chance(row["grains"]["joint"]["mrr"]),
                beside_chance(row["grains"]["component"]["avg5"]),
                *(f"{row['grains'][grain]['ac1']['rate']:.2f}" for grain in ("role", "endpoint", "host")),
                rate(row["misled"]["stage"]),
                number(row["chain_f1"]["median"]),
                rate(row["grounded"]),
                number(row["calibration"]["brier"]),
                number(row["calibration"]["ece"]),
                number(row["effort"]["lines"]["median"], 0),
                number(median(v["wall_s"] for v in told if key(v) == (row["diagnoser"], row["tier"]))),
            ]
            for row in rows
        ],
    )


def by_scenario(scores: list[Score]) -> list[str]:
    """Right joint answers of cases with a fault, and of controls, by scenario: ours on each tier, each other's best tier."""
    shown = [(OURS, tier) for tier in ASKED_ON[OURS]]
    shown += [(name, best_tier(name, scores)) for name in ASKED_ON if name not in (OURS, "random", "prior-only")]
    names = sorted({score["scenario"] for score in scores})
    groups = [(name, fault) for name in names for fault in (True, False)]
    rows = []
    for name, fault in groups:
        cases = [score for score in scores if score["scenario"] == name and score["label"]["fault"] == fault]
        if cases:
            right = [sum(v["outcome"] == "right" for v in verdicts(cases) if key(v) == who) for who in shown]
            rows.append([name, "fault" if fault else "none", str(len(cases)), *(f"{n}/{len(cases)}" for n in right)])
    return table(["scenario", "", "n", *(f"{name} {tier}" for name, tier in shown)], rows)


def crossed(scores: list[Score]) -> list[str]:
    """Stage accuracy where the error came out in another stage than the fault's: there whoever reads the error must fail."""
    cases = [score for score in scores if score["hop"] and score["hop"]["crossed"]]
    rows = []
    for who in sorted({key(v) for v in verdicts(cases)}):
        told = [v for v in verdicts(cases) if key(v) == who and v["grains"]]
        right = sum(v["grains"]["stage"]["ac1"] for v in told)
        chance = sum(v["grains"]["stage"]["chance"]["ac1"] for v in told) / len(told)
        low, high = wilson(right, len(told))
        rows.append([*who, f"{right}/{len(told)} [{low:.2f}, {high:.2f}]", f"{chance:.2f}"])
    return table(["diagnoser", "tier", "stage right", "chance"], rows)


def duels(scores: list[Score]) -> list[str]:
    """Ours at T3 against every other's best tier, and each of our tiers against the one below: right or not, case by case."""
    others = [((OURS, "T3"), (name, best_tier(name, scores))) for name in ASKED_ON if name != OURS]
    tiers = [((OURS, high), (OURS, low)) for low, high in zip(ASKED_ON[OURS], ASKED_ON[OURS][1:], strict=False)]
    found = [compared((" ".join(one), " ".join(two)), paired(scores, one, two)) for one, two in others + tiers]
    head = ["first", "second", "n", "only first right", "only second", "difference by scenario", "p", "p, Holm"]
    rows = [
        [
            one["first"],
            one["second"],
            str(one["n"]),
            str(one["only_first"]),
            str(one["only_second"]),
            f"{one['difference']:+.2f} {interval(one['interval'])}",
            f"{one['p']:.2g}",
            f"{one['p_holm']:.2g}",
        ]
        for one in with_holm(found)
    ]
    return table(head, rows)


def paired(scores: list[Score], one: tuple[str, str], two: tuple[str, str]) -> list[tuple[str, bool, bool]]:
    """(scenario, first right, second right) of every case with a fault that both were judged on."""
    found = []
    for score in scores:
        right = {key(v): v["outcome"] == "right" for v in score["verdicts"] if v["outcome"] != "unknown"}
        if score["label"]["fault"] and {one, two} <= right.keys():
            found.append((score["scenario"], right[one], right[two]))
    return found


def best_tier(name: str, scores: list[Score]) -> str:
    """The tier on which it was right most often; the lowest of equals."""
    right = {tier: sum(v["outcome"] == "right" for v in verdicts(scores) if key(v) == (name, tier)) for tier in ASKED_ON[name]}
    return max(right, key=lambda tier: right[tier])


def times(standing: list[dict[str, Any]]) -> list[str]:
    """Time to detect, by the case's clock, and to a right diagnosis, by the machine's."""
    rows = []
    for row in standing:
        detect, diagnose = row["detect_s"], row["diagnose"]
        spread = f"{detect['median']:.2f} [{detect['low']:.2f}, {detect['high']:.2f}]" if detect["n"] else "-"
        told = [number(diagnose[name]) for name in ("median_s", "restricted_mean_s", "penalised_mean_s")]
        rows.append([row["diagnoser"], row["tier"], str(detect["n"]), spread, *told])
    head = ["diagnoser", "tier", "alarms", "fault to alarm, s", "to a right diagnosis: median, s"]
    return table([*head, "restricted mean, s", "penalised mean, s"], rows)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def key(verdict: dict[str, Any]) -> tuple[str, str]:
    """Who answered on what."""
    return verdict["diagnoser"], verdict["tier"]


def interval(found: tuple[float, float] | None) -> str:
    """``[0.71, 0.98]``; a dash where there is none."""
    return "-" if found is None else f"[{found[0]:.2f}, {found[1]:.2f}]"


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def beside_chance(found: dict[str, Any]) -> str:
    """``0.61 (0.02)``."""
    return f"{found['rate']:.2f} ({found['chance']:.2f})"


def counts(scores: list[Score]) -> list[str]:
    """How many cases of which scenario and arm, and how far their error came out from the fault."""
    groups: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        groups[score["scenario"], score["arm"]].append(score)
    rows = []
    for (scenario, arm), cases in sorted(groups.items()):
        crossing = sum(bool(case["hop"] and case["hop"]["crossed"]) for case in cases)
        gaps = [case["hop"]["log_gap_s"] for case in cases if case["hop"] and case["hop"]["log_gap_s"] is not None]
        rows.append([scenario, arm, str(len(cases)), str(crossing), number(median(gaps) if gaps else None)])
    return table(["scenario", "arm", "cases", "error in another stage", "log-time gap, s, median"], rows)


def answers(scores: Iterable[Score]) -> Iterable[str]:
    """One JSON line a case: label, hashes, and every answer as it was judged."""
    kept = ("diagnoser", "tier", "outcome", "top", "confidence", "chain_f1", "detect_s", "wall_s", "meter")
    for score in scores:
        head = {name: score[name] for name in ("case_id", "manifest_sha256", "scenario", "arm", "seed", "label")}
        told = [{name: verdict.get(name) for name in kept} for verdict in score["verdicts"]]
        yield json.dumps({**head, "answers": told}, separators=(",", ":"))


def page(runs: dict[RunPaths, Score]) -> str:
    """All tables."""
    scores = list(runs.values())
    rows = standings(scores)
    sections = {
        "Cases": counts(scores),
        "Board": board(rows),
        "Ranking, chance, bias, chains, calibration, effort": further(rows, scores),
        "By scenario": by_scenario(scores),
        "Where the error came out in another stage": crossed(scores),
        "Paired": duels(scores),
        "Times": times(rows),
        "What each signal is worth": table(["left out", "tier", "right", "component", "false blame"], ablation(list(runs))),
    }
    return "\n\n".join(f"## {title}\n\n" + "\n".join(rows) for title, rows in sections.items()) + "\n"


def main() -> None:
    """Judge what is not judged yet, then write page and answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--development-until", type=int, default=504)
    parser.add_argument("--sandboxed", action="store_true", help="each diagnoser in its sandbox: some seconds a case")
    parser.add_argument("--within", type=float, default=float("inf"))
    options = parser.parse_args()
    scores = judged(options)
    options.page.write_text(page(scores))
    options.answers.write_text("".join(f"{line}\n" for line in answers(scores.values())))
    print(f"{len(scores)} cases")


if __name__ == "__main__":
    main()
