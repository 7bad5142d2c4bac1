"""The leaderboard's page and its raw answers, from the scores of a set's cases: shares with intervals, beside chance."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from diagnosis.intervals import wilson
from diagnosis.pairs import compared, with_holm
from diagnosis.run import ASKED_ON
from diagnosis.summary import summarise
from injection.sweep import sweep_cells
from storage.layout import RunPaths
from tasks.ablation import ablation
from tasks.score import verdicts_of

Score = dict[str, Any]
Who = tuple[str, str]
OURS = "causal"
#: What every table of shares says first.
GUESSERS = ("random", "prior-only")


def write_page(page: Path, scores: Mapping[RunPaths, Score]) -> None:
    """Write all tables as Markdown."""
    page.write_text(markdown(list(scores.values()), ablation(list(scores))))


def write_answers(file: Path, scores: Iterable[Score]) -> None:
    """One JSON line a case: label, hashes, and every answer as it was judged; packed if the name ends in .gz."""
    kept = ("diagnoser", "tier", "outcome", "top", "confidence", "chain_f1", "detect_s", "wall_s", "isolation", "meter")
    heads = ("case_id", "manifest_sha256", "split", "scenario", "arm", "seed", "decoy", "impact", "label")
    lines = []
    for score in scores:
        told = [{name: verdict.get(name) for name in kept} for verdict in score["verdicts"]]
        lines.append(json.dumps({**{name: score[name] for name in heads}, "answers": told}, separators=(",", ":")) + "\n")
    text = "".join(lines).encode()
    file.write_bytes(gzip.compress(text, mtime=0) if file.suffix == ".gz" else text)


def markdown(scores: list[Score], signals: list[list[str]]) -> str:
    """The page; ``signals`` are the rows of the ablation."""
    rows = standings(scores)
    sections = {
        "Cases": counts(scores),
        "Board": board(rows),
        "By split": by_split(scores),
        "Ranking, chance, bias, chains, calibration, effort": further(rows, scores),
        "By scenario": by_scenario(scores),
        "Where the error came out in another stage": crossed(scores),
        "Paired": duels(scores),
        "Times": times(rows),
        "What each signal is worth": table(["left out", "tier", "right", "component", "false blame"], signals),
    }
    return "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items()) + "\n"


def verdicts(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """Every verdict with the scenario of its case."""
    return list(verdicts_of(scores))


def rate(found: dict[str, Any]) -> str:
    """``0.93 [0.84, 0.97]``, with Wilson's interval."""
    return "-" if found["rate"] is None else f"{found['rate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def standings(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """A row each diagnoser and tier, the best joint accuracy first."""
    return sorted(summarise(verdicts_of(scores)), key=lambda row: -right_share(row))


def right_share(row: dict[str, Any]) -> float:
    """Joint accuracy; below zero where no case has a fault."""
    return float(row["grains"]["joint"]["ac1"]["rate"]) if row["grains"] else -1.0


def of_grain(row: dict[str, Any], grain: str) -> str:
    """Accuracy at a grain, or a dash where no case has a fault."""
    return rate(row["grains"][grain]["ac1"]) if row["grains"] else "-"


BOARD = ("diagnoser", "tier", "joint", "by scenario", "component", "stage", "kind")
CLAIMS = ("misdiagnosis", "coverage", "false blame", "of decoys")


def board(rows: list[dict[str, Any]]) -> list[str]:
    """What was right, and what was claimed."""
    told = []
    for row in rows:
        clustered = row["grains"]["joint"]["ac1"]["clustered"] if row["grains"] else None
        grains = (of_grain(row, grain) for grain in ("component", "stage", "kind"))
        claims = (rate(row[name]) for name in ("misdiagnosis", "coverage", "false_blame", "false_blame_decoys"))
        told.append([row["diagnoser"], row["tier"], of_grain(row, "joint"), interval(clustered), *grains, *claims])
    return table([*BOARD, *CLAIMS], told)


def by_split(scores: list[Score]) -> list[str]:
    """Joint accuracy, and false blame, of each diagnoser and tier in each split; how many cases of it have a fault and none."""
    splits = sorted({score["split"] for score in scores})
    found = {split: standings(score for score in scores if score["split"] == split) for split in splits}
    rows: dict[Who, list[str]] = defaultdict(list)
    for split in splits:
        for row in found[split]:
            rows[key(row)] += [of_grain(row, "joint"), of_grain(row, "component"), rate(row["false_blame"])]
    order = [key(row) for row in standings(scores)]
    columns = [f"{split}: {what}" for split in splits for what in ("joint", "component", "false blame")]
    whole = [who for who in order if len(rows[who]) == len(columns)]
    return table(["diagnoser", "tier", *columns], [[*who, *rows[who]] for who in whole])


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
                beside_chance(row, "joint", "mrr"),
                beside_chance(row, "component", "avg5"),
                *(of_grain(row, grain).partition(" ")[0] for grain in ("role", "endpoint", "host")),
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
    """Right joint answers by scenario and by what was done: ours on each tier, each other's best tier; the sweep by kind."""
    shown = [who for who in asked(scores) if who[0] == OURS]
    shown += [best(name, scores) for name in dict.fromkeys(name for name, _ in asked(scores)) if name not in (OURS, *GUESSERS)]
    groups: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        groups[named(score["scenario"]), done(score)].append(score)
    rows = []
    for (name, what), cases in sorted(groups.items()):
        right = [sum(v["outcome"] == "right" for v in verdicts(cases) if key(v) == who) for who in shown]
        rows.append([name, what, str(len(cases)), *(f"{n}/{len(cases)}" for n in right)])
    return table(["scenario", "", "n", *map(" ".join, shown)], rows)


def named(scenario: str) -> str:
    """A scenario's name; a cell's is that of all of its kind."""
    cell = sweep_cells().get(scenario)
    return f"sweep, {cell.kind}" if cell else scenario


def done(score: Score) -> str:
    """What was done to the job."""
    return "fault" if score["label"]["fault"] else "decoy" if score["decoy"] else "none"


def asked(scores: list[Score]) -> list[Who]:
    """Who answered, on which tier, in the order of the lab's own list; others after them, by name."""
    known = [(name, tier) for name, tiers in ASKED_ON.items() for tier in tiers]
    there = {key(verdict) for verdict in verdicts(scores)}
    return [who for who in known if who in there] + sorted(there - set(known))


def crossed(scores: list[Score]) -> list[str]:
    """Stage accuracy where the error came out in another stage than the fault's: there whoever reads the error must fail."""
    cases = [score for score in scores if score["hop"] and score["hop"]["crossed"]]
    rows = []
    for who in asked(cases):
        told = [v for v in verdicts(cases) if key(v) == who and v["grains"]]
        if not told:
            continue
        right = sum(v["grains"]["stage"]["ac1"] for v in told)
        chance = sum(v["grains"]["stage"]["chance"]["ac1"] for v in told) / len(told)
        low, high = wilson(right, len(told))
        rows.append([*who, f"{right}/{len(told)} [{low:.2f}, {high:.2f}]", f"{chance:.2f}"])
    return table(["diagnoser", "tier", "stage right", "chance"], rows)


def duels(scores: list[Score]) -> list[str]:
    """Ours on its highest tier against every other's best, and each of our tiers against the one below, case by case."""
    ours = [who for who in asked(scores) if who[0] == OURS]
    others = [best(name, scores) for name in dict.fromkeys(name for name, _ in asked(scores)) if name != OURS]
    wanted = [(ours[-1], other) for other in others if ours] + [(high, low) for low, high in pairwise(ours)]
    found = [compared((" ".join(one), " ".join(two)), cases) for one, two in wanted if (cases := paired(scores, one, two))]
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


def best(name: str, scores: list[Score]) -> Who:
    """A diagnoser on the tier on which it was right most often; the lowest of equals."""
    right = {who: sum(v["outcome"] == "right" for v in verdicts(scores) if key(v) == who) for who in asked(scores)}
    return max((who for who in right if who[0] == name), key=lambda who: right[who])


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


def key(verdict: Mapping[str, Any]) -> Who:
    """Who answered on what."""
    return verdict["diagnoser"], verdict["tier"]


def interval(found: Sequence[float] | None) -> str:
    """``[0.71, 0.98]``; a dash where there is none."""
    return "-" if found is None else f"[{found[0]:.2f}, {found[1]:.2f}]"


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def beside_chance(row: dict[str, Any], grain: str, measure: str) -> str:
    """``0.61 (0.02)``; a dash where no case has a fault."""
    if not row["grains"]:
        return "-"
    found = row["grains"][grain][measure]
    return f"{found['rate']:.2f} ({found['chance']:.2f})"


def counts(scores: list[Score]) -> list[str]:
    """How many cases of which scenario and arm, and how far their error came out from the fault."""
    groups: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        groups[named(score["scenario"]), score["arm"]].append(score)
    rows = []
    for (scenario, arm), cases in sorted(groups.items()):
        what = done(cases[0])
        crossing = sum(bool(case["hop"] and case["hop"]["crossed"]) for case in cases)
        gaps = [case["hop"]["log_gap_s"] for case in cases if case["hop"] and case["hop"]["log_gap_s"] is not None]
        splits = ", ".join(f"{split} {n}" for split, n in sorted(Counter(case["split"] for case in cases).items()))
        rows.append([scenario, arm, what, str(len(cases)), splits, str(crossing), number(median(gaps) if gaps else None)])
    return table(["scenario", "arm", "", "cases", "splits", "error in another stage", "log-time gap, s, median"], rows)
