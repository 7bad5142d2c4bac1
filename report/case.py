"""A run as the experimenter's side sees it: its plan, what was done and seen, its tables, its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from report.outcome import Record, seam_events
from storage.records import FaultKind, Phase, Role


@dataclass(frozen=True)
class Case:
    """Records of one run. Tables are lists of rows by time; empty where the run has none (``outcome["gaps"]`` says so)."""

    run_id: str
    plan: Record
    history: list[Record]
    outcome: Record
    score: Record = field(default_factory=dict)
    logs: list[Record] = field(default_factory=list)
    metrics: list[Record] = field(default_factory=list)

    @property
    def name(self) -> str:
        """How a person reads it: scenario, arm, seed."""
        scenario = self.outcome.get("scenario") or self.run_id
        return f"{scenario} / {self.outcome.get('arm') or '?'} / seed {self.outcome.get('seed', '?')}"

    @property
    def faulty(self) -> bool:
        """Whether its plan holds a fault other than noop."""
        return any(fault.get("kind") != FaultKind.NOOP for fault in self.plan.get("faults", []))

    @property
    def healthy(self) -> bool:
        """Whether it may stand for normal: no fault in its plan, valid, and the job finished every step without an error."""
        return not self.faulty and bool(self.outcome["valid"]) and self.outcome["impact"] == "none"

    @property
    def fault_step(self) -> int:
        """The step in which its first fault (or the noop in its place) fired, or was to; -1 without one."""
        faults = self.plan.get("faults", [])
        planned = int((faults[0].get("trigger") or {}).get("step", -1)) if faults else -1
        fired = (
            line for line in self.history if line.get("what") == "fired" and faults and line["fault_id"] == faults[0]["id"]
        )
        return int(next(fired, {}).get("step", planned))

    @property
    def workload(self) -> Mapping[str, Any]:
        """What must be equal for two runs to be comparable: the job without its seed, the place and the profile."""
        job = {key: value for key, value in (self.plan.get("job") or {}).items() if key != "seed"}
        return {"job": job, "place": self.plan.get("place"), "profile": self.plan.get("profile")}

    def spans(self, component: str = Role.CONTROLLER) -> list[tuple[str, int, float, float, str]]:
        """(stage, step, start, end, end phase) of a component's stages, wall-clock seconds, from the seam's announcements.

        A stage that was entered and never left ends at the last announcement of the run, with the phase "".
        """
        events = [event for event in seam_events(self.history) if event["component"] == component]
        last = max((float(event["wall_s"]) for event in seam_events(self.history)), default=0.0)
        opened: dict[tuple[str, int], float] = {}
        spans = []
        for event in events:
            key = (str(event["stage"]), int(event["step"]))
            if event["phase"] == Phase.ENTER:
                opened[key] = float(event["wall_s"])
            elif key in opened:
                spans.append((*key, opened.pop(key), float(event["wall_s"]), str(event["phase"])))
        spans += [(*key, start, last, "") for key, start in opened.items()]
        return sorted(spans, key=lambda span: span[2])
