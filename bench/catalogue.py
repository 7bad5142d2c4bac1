"""Does each scenario of catalogue A come out as it says? Runs of every scenario and arm by seed, and a table of the misses.

    python -m bench.catalogue [--runs 10] [--first-seed 100] [--scenario NAME ...] [--arm ARM ...] [--place PLACE] [--within S]
                              [--workload sft]

Resumable: each run is one line of `FAULTLINE_HOME/catalogue.jsonl`, written when it has ended; what is there is not run again.
`--within` ends the bench after so many seconds, between two runs. A hit is a valid run that came out as its plan expects; for a
control that is a job without an error. With the control workload `sft` nothing is expected: a hit is a job that survived, or
whose error came out in the stage of the fault; what cannot be done to it is not applicable. Latencies are from the boundary, by
the job's clock, to the effect.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report.mitigation import in_place
from report.proportion import Proportion
from storage.jsonlines import read_json_lines
from storage.layout import home
from tasks.collect import collect
from tasks.experiment import attempt
from tasks.outcome import open_case
from tasks.plan import SCENARIOS, load_scenario, make_plan

MACHINE_WAIT_S = 3600.0


def cells(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Scenario, arm, seed; all arms of one seed after one another."""
    shipped = sorted(path.stem for path in SCENARIOS.glob("*.yaml"))
    names = options.scenario or [name for name in shipped if load_scenario(name).catalogue]
    for seed in range(options.first_seed, options.first_seed + options.runs):
        for name in names:
            for arm in load_scenario(name).arms:
                if not options.arm or arm in options.arm:
                    yield name, arm, seed


def run(name: str, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run, as a line; without one where the scenario cannot be done to this workload."""
    began, what = time.monotonic(), {"scenario": name, "arm": arm, "seed": seed, "workload": options.workload}
    try:
        plan = make_plan(load_scenario(name, options.workload), arm, seed, place=options.place)
    except ValueError as error:
        return {**what, "not_applicable": str(error).partition(".yaml:")[2] or str(error), "took_s": 0.0}
    paths = attempt(plan, lambda _: None, MACHINE_WAIT_S)
    collect(paths)
    case = open_case(paths)
    keys = ("run_id", "valid", "invalid_because", "root", "final_error", "expected", "impact", "steps_done", "hop", "gaps")
    told = {key: case.outcome[key] for key in keys}
    exact = [row["value"] for row in case.metrics if (row["component"], row["metric"]) == ("controller", "exact")]
    latency = {"latency_ms": latencies(case.history), "final_exact": sum(exact[-3:]) / 3 if len(exact) >= 3 else None}
    return {**what, "took_s": round(time.monotonic() - began, 1), **told, **latency, "in_place": in_place(case)}


def latencies(history: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds from boundary to effect, by fault; only of those that act at the boundary itself."""
    events = [line for line in history if line["what"] == "event"]
    found = {}
    for fired in (line for line in history if line["what"] == "fired"):
        applied = next((one for one in history if one["what"] == "applied" and one["fault_id"] == fired["fault_id"]), None)
        before = [event["mono_s"] for event in events if event["mono_s"] <= fired["event_mono_s"]]
        if applied and before:
            found[fired["fault_id"]] = round((applied["mono_s"] - max(before)) * 1000, 3)
    return found


def verdict(line: dict[str, Any]) -> str:
    """Empty for a hit, else why not."""
    if "not_applicable" in line:
        return f"not applicable: {line['not_applicable']}"
    if not line["valid"]:
        return "invalid: " + "; ".join(line["invalid_because"])
    expected, final = line["expected"], line["final_error"]
    if expected is None and line["root"]:
        return "" if line["in_place"] else f"it ended in {final['stage']}: {final['text']}"
    if expected is None:
        return "" if line["impact"] == "none" else f"impact {line['impact']}" + (f": {final['text']}" if final else "")
    if expected["came_true"]:
        return ""
    wrong = ", ".join(part for part, true in expected["parts"].items() if not true)
    where = (
        f"; it ended in {final['stage']} of step {final['step']}: {final['text']}" if final else "; it ended without an error"
    )
    return f"not as expected ({wrong or 'not in one error'}){where}"


def table(lines: list[dict[str, Any]]) -> str:
    """Hits by scenario and arm with their interval, then every miss with its reason."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["scenario"], line["workload"], line["arm"]].append(line)
    rows = ["| scenario | workload | arm | as expected, 95 % interval | s a run |", "| --- | --- | --- | --- | --- |"]
    for (name, workload, arm), runs in sorted(groups.items()):
        hits = Proportion(sum(not verdict(one) for one in runs), len(runs))
        rows.append(f"| {name} | {workload} | {arm} | {hits} | {sum(one['took_s'] for one in runs) / len(runs):.0f} |")
    misses = [f"- {one['scenario']} / {one['arm']} / seed {one['seed']}: {verdict(one)}" for one in lines if verdict(one)]
    return "\n".join([*rows, "", *(misses or ["No miss."])])


def main() -> None:
    """Run what is missing, then tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--scenario", action="append", default=[])
    parser.add_argument("--arm", action="append", default=[])
    parser.add_argument("--place", choices=["virtual-cluster", "plain-host"])
    parser.add_argument("--workload", choices=["grpo", "sft"], default="grpo")
    parser.add_argument("--within", type=float, default=float("inf"))
    options = parser.parse_args()
    store, began = home() / "catalogue.jsonl", time.monotonic()
    store.parent.mkdir(parents=True, exist_ok=True)
    done = {(line["scenario"], line["arm"], line["seed"]) for line in stored(store) if line["workload"] == options.workload}
    for name, arm, seed in cells(options):
        if (name, arm, seed) in done:
            continue
        if time.monotonic() - began > options.within:
            break
        line = run(name, arm, seed, options)
        with store.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{name} / {arm} / seed {seed}: {verdict(line) or 'as expected'} ({line['took_s']} s)", flush=True)
    print("\n" + table(stored(store)))


def stored(path: Path) -> list[dict[str, Any]]:
    """What has been run so far; a torn last line does not count."""
    return read_json_lines(path)[0] if path.exists() else []


if __name__ == "__main__":
    main()
