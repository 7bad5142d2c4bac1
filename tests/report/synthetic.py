"""Small runs on disk in the real layout, written through `storage`: what a job, an injector and a sampler would leave."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from storage import schemas, truth
from storage.layout import RunPaths, new_run_id, run_paths
from storage.manifest import RunState, end_manifest, start_manifest
from storage.records import Receipt, to_dict
from storage.writer import TableWriter

START_S = 1_800_000_000.0
STAGES = {"weights_update": 0.3, "rollout": 1.2, "reference": 0.2, "train": 0.6, "checkpoint": 0.1}
TIMING = {
    "weights_update": "timeperf/weights_update_step",
    "rollout": "timeperf/rollout_step",
    "reference": "timeperf/reference_step",
    "train": "timeperf/train_step",
    "checkpoint": "timeperf/latest_recover_save",
}
LINK = {"type": "link", "src": "train1", "dst": "metaserver", "purpose": "weights"}


@dataclass
class Synthetic:
    """What kind of run to write. `error_stage` empty: nothing fails. `slow` multiplies stage times from the fault's step on."""

    scenario: str = "no-fault"
    arm: str = "control"
    seed: int = 1
    steps: int = 12
    kind: str = "noop"
    fault_step: int = 6
    root_stage: str = "weights_update"
    target: dict[str, Any] = field(default_factory=lambda: dict(LINK))
    error_stage: str = ""
    error_component: str = "rollout0"
    error_text: str = "InferenceEngineError: UpdateWeightError: Failed to update weights: timed out after 10.0s"
    slow: dict[str, float] = field(default_factory=dict)
    gone: bool = True


class Writer:
    """The clock and the lines of one synthetic run."""

    def __init__(self, spec: Synthetic) -> None:
        self.spec, self.now = spec, START_S + 1000.0 * spec.seed
        self.noise = random.Random(f"{spec.scenario}/{spec.arm}/{spec.seed}")
        self.history: list[dict[str, Any]] = []
        self.metrics: list[tuple[Any, ...]] = []
        self.logs: list[tuple[Any, ...]] = []

    def run(self) -> None:
        """All steps, up to the error if there is one."""
        for step in range(self.spec.steps):
            for stage, seconds in STAGES.items():
                if not self.stage(step, stage, seconds):
                    return self.end()
        return self.end()

    def end(self) -> None:
        """The fault is taken back, unless the run is to miss that proof."""
        self.now += 0.5
        if self.spec.gone:
            self.write("reverted", fault_id="f1")
            self.prove("gone", "gone")

    def stage(self, step: int, stage: str, seconds: float) -> bool:
        """One stage of the controller; False when it raised."""
        spec = self.spec
        self.announce("enter", step, stage)
        if (step, stage) == (spec.fault_step, spec.root_stage):
            self.inject()
        slow = spec.slow.get(stage, 1.0) if step >= spec.fault_step else 1.0
        took = seconds * slow * self.noise.gauss(1.0, 0.05)
        fails = stage == spec.error_stage and step >= spec.fault_step
        self.sample(took, busy=stage)
        self.log("controller", "INFO", f"{stage} done, step: {step}", step, stage)
        self.metric("controller", step, stage, TIMING[stage], "s", took)
        if stage == "rollout":
            self.metric("controller", step, stage, "batch_samples", "count", 128.0)
            for rank in (0, 1):
                self.metric(f"rollout{rank}", step, stage, "samples_per_second", "samples/s", self.noise.gauss(60, 3) / slow)
        if fails:
            self.fail(step, stage)
        self.announce("error" if fails else "exit", step, stage, **({"error": spec.error_text} if fails else {}))
        return not fails

    def sample(self, seconds: float, busy: str) -> None:
        """The sampler's readings, twice a second: a process of the stage's role uses most of a core."""
        end = self.now + seconds
        while self.now + 0.5 < end:
            self.now += 0.5
            for component in ("train0", "train1", "rollout0", "rollout1"):
                level = 0.8 if component.startswith(busy) else 0.05
                reading = (component, -1, "", "cpu_ratio", "cores", self.noise.gauss(level, 0.01))
                self.metrics.append((self.now, self.now - START_S, "localhost", *reading))
        self.now = end

    def fail(self, step: int, stage: str) -> None:
        """The error as a worker logs it first and the controller after it."""
        text = self.spec.error_text
        trace = f"Exception: {text}\nTraceback (most recent call last):\n  x\n{text}"
        self.log(self.spec.error_component, "ERROR", trace, step, stage)
        self.now += 0.2
        self.log("controller", "ERROR", f"Exception caught when waiting for future: {text}", step, stage)

    def announce(self, phase: str, step: int, stage: str, **attrs: Any) -> None:
        """An event of the seam in the history."""
        self.write("event", component="controller", step=step, stage=stage, phase=phase, attrs=attrs)

    def write(self, what: str, **more: Any) -> None:
        """A history line."""
        self.history.append({"wall_s": self.now, "mono_s": self.now - START_S, "what": what, **more})

    def inject(self) -> None:
        """The injector's lines for one fault."""
        for what in ("armed", "fired", "applied"):
            self.write(what, fault_id="f1", event_mono_s=self.now - START_S)
        self.prove("verified", "applied")

    def prove(self, what: str, about: str) -> None:
        """A receipt in the history."""
        receipt = Receipt("f1", about, ok=True, probe="bytes", measured={}, wall_s=self.now, mono_s=self.now - START_S)
        self.write(what, fault_id="f1", ok=True, receipt=to_dict(receipt))

    def metric(self, component: str, step: int, stage: str, name: str, unit: str, value: float) -> None:
        """A metrics row."""
        self.metrics.append((self.now, self.now - START_S, "localhost", component, step, stage, name, unit, value))

    def log(self, component: str, level: str, message: str, step: int, stage: str) -> None:
        """A log row."""
        self.logs.append((self.now, component, len(self.logs) + 1, level, message, "", step, stage, None, None))


def plan_of(spec: Synthetic) -> dict[str, Any]:
    """The plan in the shape of docs/architecture.md."""
    trigger = {"step": spec.fault_step, "stage": spec.root_stage, "when": "enter", "after_s": 0.0}
    fault = {"id": "f1", "kind": spec.kind, "params": {}, "target": spec.target, "trigger": trigger, "until": {"when": "end"}}
    component = spec.target.get("component") or spec.target["src"]
    expected = {
        "root": {"stage": spec.root_stage, "component": component},
        "error": {"stage": spec.error_stage, "role": spec.error_component.rstrip("0123456789"), "text": spec.error_text[:20]},
    }
    return {
        "schema_version": 1,
        "scenario": spec.scenario,
        "arm": spec.arm,
        "profile": "smoke",
        "seed": spec.seed,
        "place": "plain-host",
        "job": {"steps": spec.steps, "seed": spec.seed, "time_scale": 360.0},
        "faults": [fault],
        "expected": expected if spec.error_stage else {},
    }


def write_run(spec: Synthetic, run_id: str = "") -> RunPaths:
    """Write one run under the current home and return its paths."""
    paths = run_paths(run_id or new_run_id()).create()
    writer = Writer(spec)
    writer.run()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    truth.save_plan(paths, plan_of(spec))
    paths.history.write_text("".join(json.dumps(line) + "\n" for line in writer.history))
    for name, rows in (("metrics", writer.metrics), ("logs", writer.logs)):
        with TableWriter(paths.table(name), schemas.TABLES[name], flush_s=60.0) as table:
            table.append(rows)
    end_manifest(paths, RunState.COMPLETED)
    return paths


def weight_sync(seed: int = 1, **more: Any) -> Synthetic:
    """A fault whose error shows one component away from it, in the same stage."""
    given = {"kind": "network-bandwidth", "arm": "legacy", "error_stage": "weights_update", "slow": {"weights_update": 30.0}}
    return Synthetic(scenario="weight-sync-link", seed=seed, **{**given, **more})


def worker_lost(seed: int = 1, **more: Any) -> Synthetic:
    """A fault in rollout whose error shows in train."""
    text = "FrameworkError: DistributedBatchMemoryError: Batch size mismatch for key 'group_id': expected 64, got 128"
    given: dict[str, Any] = {"kind": "process-kill", "arm": "legacy", "root_stage": "rollout", "error_stage": "train"}
    given |= {"target": {"type": "process", "component": "rollout1"}, "error_component": "controller", "error_text": text}
    return Synthetic(scenario="rollout-kill", seed=seed, **{**given, **more})


def write_score(paths: RunPaths, stage: str, component: str, kind: str, *, right: tuple[str, ...], outcome: str) -> None:
    """A score as `tasks.score` writes it, of two diagnosers on one tier that gave the same answer."""
    chance = {"stage": 1 / 8, "role": 2 / 9, "component": 1 / 9, "endpoint": 2 / 9, "kind": 1 / 7, "joint": 1 / 504}
    grains = {name: {"rank": None, "ac1": int(name in right), "chance": {"ac1": level}} for name, level in chance.items()}
    top = {"component": component, "stage": stage, "kind": kind} if stage else None
    common = {"outcome": outcome, "tier": "T1", "grains": grains if stage else {}, "top": top, "reason": "", "detected": True}
    verdicts = [{**common, "diagnoser": name} for name in ("first-error", "last-error")]
    paths.score.write_text(json.dumps({"schema_version": 1, "label": {}, "verdicts": verdicts}))
