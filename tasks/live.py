"""A run as it goes, from its files alone: where the job is, how its workers are, what went wrong, what was done to it.

Experimenter's side: it opens truth. Any process of this machine may look, and nothing of the run waits for it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from injection.procfs import Identity
from report.outcome import headline, target_name
from storage import truth
from storage.catalogue import list_runs, open_run
from storage.jsonlines import JsonTail
from storage.layout import RunPaths, run_paths
from storage.manifest import RunState, load_manifest
from storage.newest import newest_samples
from tasks.waiting import how_it_ended
from telemetry.loglines import ErrorTail

#: Beside the states of a manifest: it says that the run is under way, and the process that carried it is gone.
KILLED = "killed"
#: The sampler's figures reach back this far at most, s: its flush, and a beat.
_SPAN_S = 3.0
_POLL_S = 0.2
_STATES = ("running", "sleeping", "waiting for the disk", "stopped", "traced", "zombie", "gone")


@dataclass(frozen=True)
class Worker:
    """One process of the job. ``step`` and ``stage`` are those of the last figure it told; None: nothing was seen yet."""

    component: str
    state: str
    step: int | None
    stage: str
    cpu_cores: float | None
    rss_bytes: float | None


@dataclass(frozen=True)
class FaultSeen:
    """A fault of the plan and how far it is: planned, armed, fired, applied, verified, reverted, gone, ..."""

    fault_id: str
    kind: str
    target: str
    state: str


@dataclass(frozen=True)
class Sight:
    """One look. ``state`` is that of the manifest or `KILLED`; ``since_start_s`` is wall clock; ``error`` the job's latest."""

    run_id: str
    scenario: str
    arm: str
    state: str
    since_start_s: float
    step: int
    steps: int
    stage: str
    workers: tuple[Worker, ...]
    error: str
    faults: tuple[FaultSeen, ...]

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state != RunState.RUNNING


def under_way() -> list[str]:
    """The runs of this home that go on now, the one that began first first."""
    return [row.run_id for row in list_runs(state=RunState.RUNNING.value) if carried(run_paths(row.run_id))]


def running_run(wait_s: float = 0.0) -> str:
    """The run of this home that began last of those under way, waiting for one. ValueError when there is none by then."""
    deadline = time.monotonic() + wait_s
    while not (found := under_way()):
        if time.monotonic() >= deadline:
            raise ValueError("no run is under way; name one, or start one: faultline run worker-kill")
        time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))
    return found[-1]


def carried(paths: RunPaths) -> bool:
    """Whether the process that carries the run is there."""
    who = truth.load_carrier(paths)
    return bool(who) and Identity(int(who["pid"]), int(who["start_ticks"])).alive()


class Watch:
    """Looks at one run again and again; each look reads what was added since the one before."""

    def __init__(self, run_id: str) -> None:
        open_run(run_id)
        self.paths = run_paths(run_id)
        self.plan = truth.load_plan(self.paths)
        self._history = JsonTail(self.paths.history)
        self._stats: dict[str, JsonTail] = {}
        self._logs: dict[str, ErrorTail] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._faults = {fault["id"]: "planned" for fault in self.plan.get("faults", [])}
        self._step, self._stage = -1, "launch"
        self._open: list[str] = []

    def look(self, now_s: float) -> Sight:
        """How it is at the wall clock ``now_s``. Raises ManifestError when the run has been taken away."""
        there = carried(self.paths)  # asked first: a run that ends in between has said so in its manifest
        manifest = load_manifest(self.paths)
        self._follow_history()
        return Sight(
            run_id=self.paths.run_id,
            scenario=str(self.plan.get("scenario", "")),
            arm=str(self.plan.get("arm", "")),
            state=manifest.state if there or manifest.state != RunState.RUNNING else KILLED,
            since_start_s=(manifest.ended_s or now_s) - manifest.started_s,
            step=self._step,
            steps=int(self.plan["job"]["steps"]),
            stage=self._stage,
            workers=self._workers(over=not there),
            error=self._error(),
            faults=tuple(
                FaultSeen(fault["id"], fault["kind"], target_name(fault["target"]), self._faults[fault["id"]])
                for fault in self.plan.get("faults", [])
            ),
        )

    def _follow_history(self) -> None:
        for line in self._history.added():
            if line.get("fault_id") in self._faults:
                self._faults[line["fault_id"]] = str(line["what"])
            elif line.get("what") == "event" and line.get("component") == "controller":
                self._follow_stage(str(line["stage"]), int(line["step"]), entered=line["phase"] == "enter")

    def _follow_stage(self, stage: str, step: int, *, entered: bool) -> None:
        """Between stages the last one stands: what follows it takes a millisecond."""
        self._step = step
        if entered:
            self._open.append(stage)
        elif stage in self._open:
            del self._open[self._open.index(stage) :]
        self._stage = self._open[-1] if self._open else stage

    def _workers(self, *, over: bool) -> tuple[Worker, ...]:
        sampled: dict[str, dict[str, float | None]] = {}
        for row in newest_samples(self.paths.table("metrics"), "sampler", _SPAN_S):
            sampled.setdefault(row["component"], {})[row["metric"]] = row["value"]
        ended = _object(self.paths.job / "workers.json")
        found = []
        for path in sorted(self.paths.registry.glob("*.json")):
            who, known = _object(path), sampled.get(path.stem, {})
            end, told = ended.get(path.stem, {}), self._last_told(path.stem)
            code = end.get("exit_code") if end.get("pid") == who.get("pid") else None
            state = how_it_ended(int(code)) if code is not None else "gone" if over else _state(known)
            step, stage = told.get("step"), str(told.get("stage", ""))
            found.append(Worker(path.stem, state, step, stage, known.get("cpu_ratio"), known.get("rss_bytes")))
        return tuple(found)

    def _last_told(self, component: str) -> dict[str, Any]:
        tail = self._stats.setdefault(component, JsonTail(self.paths.stats / f"{component}.jsonl"))
        for row in tail.added():
            self._told[component] = row
        return self._told.get(component, {})

    def _error(self) -> str:
        for path in sorted(self.paths.logs.glob("*.log")):
            self._logs.setdefault(path.stem, ErrorTail(path)).look()
        found = [(tail.error.wall_s or 0.0, name, tail.error) for name, tail in self._logs.items() if tail.error]
        _, name, row = max(found, default=(0.0, "", None), key=lambda one: one[:2])
        return f"{name}: {headline(row.text)}" if row else ""


def _state(sampled: dict[str, float | None]) -> str:
    code = sampled.get("process_state")
    if code is None:
        return "registered"
    return _STATES[int(code)]


def _object(path: Path) -> dict[str, Any]:
    """A JSON object from disk; empty while there is none, or half of one."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
