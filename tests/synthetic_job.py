"""A small job folder as a real run leaves it: two train and two rollout workers, one of them slow to upload.

The lines are those of the log format in docs/architecture.md; every identifier class that occurs in real logs is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from storage.layout import RunPaths, new_run_id
from storage.records import Registration

ROLES = {"controller": "control", "scheduler": "control", "metaserver": "control", "reward": "control"}
ROLES |= {"train0": "trainers", "train1": "trainers", "reference0": "trainers", "rollout0": "rollouts", "rollout1": "rollouts"}
PORTS = {"controller": {}, "scheduler": {"scheduler": 8081}, "metaserver": {"weights": 8080}, "reward": {"reward": 8082}}
CANARY = "zebra-crossing-canary"
FAULT = {
    "id": "f1",
    "kind": "network-bandwidth",
    "params": {"rate_bytes_per_s": 13850.0},
    "target": {"type": "link", "src": "train1", "dst": "metaserver", "purpose": "weights"},
    "trigger": {"step": 1, "stage": "weights_update", "when": "enter", "after_s": 0.0},
    "until": {"when": "end"},
}


def address(component: str) -> str:
    """The alias address of a component."""
    return f"10.98.0.{101 + list(ROLES).index(component)}"


def ports(component: str) -> dict[str, int]:
    """Port names and numbers a component listens on."""
    return PORTS.get(component, {"rpc": 7001, "event": 7001})


def dials() -> dict[str, str]:
    """The name table's dial part."""
    engines = [name for name in ROLES if name[-1].isdigit()]
    pairs = [("controller", name, "rpc") for name in engines]
    pairs += [("controller", name, "event") for name in engines if not name.startswith("reference")]
    pairs += [(name, "metaserver", "weights") for name in engines if not name.startswith("reference")]
    pairs += [(name, "reward", "reward") for name in engines if name.startswith("rollout")]
    pairs.append(("controller", "scheduler", "scheduler"))
    return {f"{src}>{dst}:{purpose}": f"{address(dst)}:{ports(dst)[purpose]}" for src, dst, purpose in pairs}


def make_run(folder: Path, kind: str = "network-bandwidth", **changes: str) -> RunPaths:
    """A finished, unsealed run in ``folder``; ``kind`` noop makes a control run, whose logs hold no error.

    ``changes`` are lines added to the log of a component.
    """
    paths = RunPaths(folder / new_run_id()).create()
    table = {"bind": {name: address(name) for name in ROLES}, "dial": dials()}
    table["listen"] = {name: {port: f"{address(name)}:{number}" for port, number in ports(name).items()} for name in ROLES}
    paths.addresses.write_text(json.dumps(table))
    for index, (name, host) in enumerate(ROLES.items()):
        rank = int(name[-1]) if name[-1].isdigit() else 0
        registration = Registration(name, name.rstrip("01"), rank, host, 40 + index, 1234 + index, address(name), ports(name))
        (paths.registry / f"{name}.json").write_text(json.dumps(asdict(registration)))
    for name, text in logs(paths.job, healthy=kind == "noop").items():
        (paths.logs / f"{name}.log").write_text(text + changes.get(name, ""))
    write_truth(paths, kind)
    return paths


def write_truth(paths: RunPaths, kind: str) -> None:
    """Plan and history of a run in which everything went as planned."""
    fault = {**FAULT, "kind": kind, "params": {"note": CANARY}}
    plan = {"schema_version": 1, "scenario": "weight-sync-link", "arm": "legacy", "seed": 17, "faults": [fault], "job": {}}
    plan["expected"] = {"root": {"stage": "weights_update", "component": "train1"}}
    paths.plan.write_text(json.dumps(plan))
    whats = ("armed", "fired", "applied", "verified", "reverted", "gone")
    lines = [{"wall_s": 1.0, "mono_s": 1.0, "what": what, "fault_id": "f1", "ok": True} for what in whats]
    paths.history.write_text("".join(json.dumps(line) + "\n" for line in lines))


def logs(job: Path, *, healthy: bool) -> dict[str, str]:
    """The log of every component, by name."""
    step = "2026-10-10 12:00:{:02d}.{:03d} {} {}: {}"
    failed = "InferenceEngineError: UpdateWeightError: Failed to update weights: timed out after 10.0s"
    texts = {
        name: [step.format(0, 17, "INFO", name, f"listening on {address(name)}:7001, pid {40 + i}")]
        for i, name in enumerate(ROLES)
    }
    openings = (
        "start to update weight",
        "start to rollout",
        "start to train",
        "[Trainer] start save latest_checkpoint recover info",
    )
    texts["controller"] += [
        step.format(1 + i, 5, "INFO", "controller", f"{o}, step: 0, epoch: 0") for i, o in enumerate(openings)
    ]
    texts["controller"].append(step.format(4, 500, "INFO", "controller", f"saved {job}/checkpoints/latest_checkpoint_even"))
    texts["controller"].append(step.format(5, 5, "INFO", "controller", "start to update weight, step: 1, epoch: 0"))
    texts["train0"].append(
        step.format(5, 100, "INFO", "train0", "upload_weights success, request_id=5e1f, rank 0, 51200 bytes")
    )
    if not healthy:
        texts["rollout0"].append(step.format(15, 200, "ERROR", "rollout0", failed))
        texts["rollout1"].append(step.format(15, 210, "ERROR", "rollout1", failed))
        texts["controller"] += _failure(step, failed)
    return {name: "\n".join(lines) + "\n" for name, lines in texts.items()}


def _failure(step: str, failed: str) -> list[str]:
    """How the controller ends: the first error that reached it, then the cleanup."""
    told = f"Non-retryable HTTP error: 500 - {failed} from http://{address('rollout1')}:7001/call"
    return [
        step.format(15, 250, "ERROR", "controller", told),
        step.format(15, 300, "ERROR", "controller", "An error occurred during training, scheduler begin cleanup resource."),
        step.format(15, 400, "INFO", "controller", "Stopping job with UID: 7f3a"),
        step.format(16, 0, "INFO", "controller", "scheduler cleanup_jobs finished"),
        "Traceback (most recent call last):",
        f'  File "{Path(__file__).resolve().parent.parent}/rlhf/controller.py", line 61, in run_step',
        f"rlhf.rpc.RemoteError: {told}",
    ]
