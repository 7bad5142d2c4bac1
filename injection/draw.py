"""From a scenario to the faults of a plan: every random choice made by one seed, every magnitude turned into a number."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from injection import magnitude
from injection.registry import parameter_problem, worded
from injection.scenario import FaultSpec, Process, Scenario, TargetSpec, UntilSpec
from storage.records import FaultKind, component_name

WORKERS_KEY = {"train": "train_workers", "rollout": "rollout_workers", "reference": "reference_workers"}


class ImpossibleError(ValueError):
    """The scenario does not fit the job; the message says which key and what the job has."""


@dataclass
class Draws:
    """The choices of one seed; each has a name and is made once.

    `rank: draw` of one role is one rank in the whole scenario, and the same range of steps is one step, so that several
    faults can meet in one place and time.
    """

    chooser: random.Random
    job: dict[str, Any]
    made: dict[tuple[str, ...], int] = field(default_factory=dict)

    def step(self, wanted: int | tuple[int, int], later: int = 0) -> int:
        """A step: as given, or from the range, both ends included; `later` steps behind it. Steps count from 0."""
        low, high = wanted if isinstance(wanted, tuple) else (wanted, wanted)
        last = int(self.job["steps"]) - 1
        if high + later > last:
            raise ImpossibleError(f"trigger.step {high + later} is never reached: the job's last step is {last}")
        return self._once(("step", str(low), str(high)), low, high) + later

    def component(self, role: str, rank: int | str | None) -> str:
        """A component's name. Raises ImpossibleError where the job has no such rank."""
        if role == "serving" and self.job.get("rollout_engine") != "served":
            raise ImpossibleError("there is no serving in this job: its rollout_engine is worker")
        if rank is None:
            return component_name(role, None)
        count = int(self.job[WORKERS_KEY[role]])
        if rank == "draw":
            return component_name(role, self._once(("rank", role), 0, count - 1))
        if int(rank) >= count:
            there = ", ".join(component_name(role, number) for number in range(count))
            raise ImpossibleError(f"there is no {component_name(role, int(rank))}: this job has {there}")
        return component_name(role, int(rank))

    def _once(self, name: tuple[str, ...], low: int, high: int) -> int:
        if name not in self.made:
            self.made[name] = self.chooser.randint(low, high)
        return self.made[name]


def resolve(
    scenario: Scenario, job: dict[str, Any], timeout_s: Callable[[str], float], shard_bytes: float, seed: int, arm: str
) -> list[dict[str, Any]]:
    """The faults of a plan, as in docs/architecture.md. `job` is the complete job configuration.

    Draws are made in the order of the file, before the arm is looked at: arms of one seed differ in kind and parameters only.
    Raises ImpossibleError.
    """
    # Seeded with the name as well: one seed must not hit the same rank and step in every scenario of a matrix.
    draws = Draws(random.Random(f"{scenario.name}/{seed}"), job)  # noqa: S311 - repeatable is the point
    return [_fault(spec, draws, timeout_s, shard_bytes, arm) for spec in scenario.faults]


def resolve_expected(scenario: Scenario, faults: list[dict[str, Any]]) -> dict[str, Any]:
    """`expected` of a plan: the root's component is the target of its fault (of a link, the source); empty = no claim."""
    if scenario.expected is None:
        return {}
    root = next(fault for fault in faults if fault["id"] == scenario.expected.root.fault)
    target = root["target"]
    component = target["component"] if target["type"] == "process" else target["src"]
    expected: dict[str, Any] = {"root": {"stage": str(scenario.expected.root.stage), "component": component}}
    if scenario.expected.error:
        expected["error"] = scenario.expected.error.model_dump(mode="json")
    return expected


def _fault(spec: FaultSpec, draws: Draws, timeout_s: Callable[[str], float], shard_bytes: float, arm: str) -> dict[str, Any]:
    step = draws.step(spec.trigger.step, spec.trigger.steps_later)
    target = _target(spec.target, draws)
    if spec.kind == FaultKind.CPU_CONTENTION:
        target["pin"] = True  # in every arm: the target keeps to one core, so that contention is all that differs

    def number(name: str, value: float | str) -> float:
        return magnitude.evaluate(value, name.rsplit("_", 1)[-1], timeout_s, shard_bytes)

    words = worded(spec.kind)
    params = {name: value if name in words else number(name, value) for name, value in spec.params.items()}
    problem = parameter_problem(spec.kind, params)
    if problem:
        raise ImpossibleError(f"{spec.id}.params.{problem}")
    control = arm == "control"
    return {
        "id": spec.id,
        "kind": str(FaultKind.NOOP if control else spec.kind),
        "params": {} if control else params,
        "target": target,
        "trigger": {
            "step": step,
            "stage": str(spec.trigger.stage),
            "when": spec.trigger.when,
            "after_s": float(number("after_s", spec.trigger.after_s)),
        },
        "until": _until(spec.until, step, number),
    }


def _until(spec: UntilSpec, step: int, number: Callable[[str, float | str], float]) -> dict[str, Any]:
    if spec.after_s is not None:
        return {"after_s": float(number("after_s", spec.after_s))}
    if spec.when == "exit":
        return {"when": "exit", "stage": str(spec.stage), "step": step + spec.steps_later}
    return {"when": "end"}


def _target(spec: TargetSpec, draws: Draws) -> dict[str, Any]:
    if spec.link is None:
        assert spec.role is not None
        return {"type": "process", "component": draws.component(spec.role, spec.rank)}

    def end(process: Process) -> str:
        return draws.component(process.role, process.rank)

    return {"type": "link", "src": end(spec.link.src), "dst": end(spec.link.dst), "purpose": str(spec.link.purpose)}
