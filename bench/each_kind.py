"""Each kind of fault on the real job: the example of docs/faults.md, as a run of its own, and a table of what was seen.

    python -m bench.each_kind RESULTS.jsonl [--kind KIND ...] [--seed 17] [--place PLACE]

Resumable: each run is one line of RESULTS, and what is there is not run again. A run needs the machine for itself and waits
for it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from injection.fault_page import NOTES
from storage.jsonlines import read_json_lines
from storage.records import FaultKind
from tasks.collect import collect
from tasks.experiment import attempt
from tasks.outcome import open_case
from tasks.plan import load_scenario, make_plan

MACHINE_WAIT_S = 3600.0
#: What the example of a kind needs of the job besides its fault.
JOBS: dict[str, dict[str, Any]] = {
    FaultKind.MEMORY_PRESSURE: {"colocated": True},
    FaultKind.DISK_FILL: {"weight_sync": "disk", "disk_source": "latest"},
    FaultKind.IO_CONTENTION: {"weight_sync": "disk", "disk_source": "latest"},
    FaultKind.FILE_CORRUPTION: {"weight_sync": "disk", "disk_source": "latest"},
    FaultKind.NETWORK_RESET: {"reference_workers": 1},
}


def run(kind: FaultKind, seed: int, place: str | None) -> dict[str, Any]:
    """One run of the example, as a line."""
    example = yaml.safe_load(NOTES.read_text())[kind]["example"]
    scenario = {"name": f"example-{kind}", "title": f"The example of {kind}", "arms": ["legacy"], "faults": [example]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scenario.yaml"
        path.write_text(yaml.safe_dump(scenario | {"workload": "grpo", "posture": "legacy", "job": JOBS.get(kind, {})}))
        plan = make_plan(load_scenario(path), "legacy", seed, place=place)
    paths = attempt(plan, lambda _: None, MACHINE_WAIT_S)
    collect(paths)
    case = open_case(paths)
    keys = ("run_id", "valid", "invalid_because", "final_error", "impact", "steps_done", "steps_planned")
    receipts = {line["what"]: line["receipt"] for line in case.history if line["what"] in ("verified", "gone")}
    (armed,) = (line for line in case.history if line["what"] == "armed")
    means = {key: armed[key] for key in ("backend", "target")}
    return {"kind": str(kind), "seed": seed, **means, **{key: case.outcome[key] for key in keys}, "receipts": receipts}


def table(lines: list[dict[str, Any]]) -> str:
    """A row a kind: by what means, on whom, what the probe saw, whether it was proved gone, and what became of the job."""
    rows = ["| kind | by | on | what an independent probe saw | gone | the job |", "| --- | --- | --- | --- | --- | --- |"]
    for line in lines:
        seen, gone = (line["receipts"].get(what, {}) for what in ("verified", "gone"))
        measured = ", ".join(f"{name} {told(value)}" for name, value in list(seen.get("measured", {}).items())[:4])
        final = line["final_error"]
        end = f"{final['stage']} of step {final['step']}: {final['text'][:70]}" if final else "no error"
        valid = "" if line["valid"] else f"INVALID ({'; '.join(line['invalid_because'])[:120]}); "
        proved = "proved" if gone.get("ok") else "not proved"
        job = f"{valid}{line['steps_done']}/{line['steps_planned']} steps, {end}"
        cells = (line["kind"], line["backend"], line["target"], f"{measured} ({seen.get('probe', 'none')})", proved, job)
        rows.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(rows)


def told(value: Any) -> str:
    """A figure, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run what is missing, then tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--kind", action="append", choices=[str(kind) for kind in FaultKind])
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--place", choices=["virtual-cluster", "plain-host"])
    options = parser.parse_args()
    done = read_json_lines(options.results)[0] if options.results.exists() else []
    for kind in FaultKind:
        wanted = not options.kind or str(kind) in options.kind
        if wanted and (str(kind), options.seed) not in {(line["kind"], line["seed"]) for line in done}:
            done.append(run(kind, options.seed, options.place))
            with options.results.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            print(f"{kind}: valid {done[-1]['valid']}", flush=True)
    print("\n" + table(done))


if __name__ == "__main__":
    main()
