"""From a scenario to the faults of a plan: every random choice made by one seed, every magnitude turned into a number."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from injection import magnitude
from injection.registry import parameter_problem, worded
from injection.scenario import ErrorSpec, FaultSpec, Scenario, TargetSpec, is_control
from injection.strict import Process
from injection.trigger import waits_for_error
from injection.when import AfterSpec, AllSpec, AnySpec, EverySpec, FigureSpec, OnceSpec, PointSpec, UntilSpec
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
        if not count:
            raise ImpossibleError(f"there is no {role} worker in this job")
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


def resolve_expected(scenario: Scenario, faults: list[dict[str, Any]], arm: str) -> dict[str, Any]:
    """`expected` of a plan: the root's component is the target of its fault (of a link, the source); empty = no claim.

    Besides the root there is `error`, or `survives: true`, or neither where the scenario claims nothing of this arm. Of a
    decoy nothing is to come.
    """
    if scenario.decoy and not is_control(arm):
        return {"survives": True}
    if scenario.expected is None or is_control(arm):
        return {}
    root = next(fault for fault in faults if fault["id"] == scenario.expected.root.fault)
    target = root["target"]
    component = target["src"] if target["type"] == "link" else target["component"]
    expected: dict[str, Any] = {"root": {"stage": str(scenario.expected.root.stage), "component": component}}
    claim = scenario.expected.arms.get(arm)
    if isinstance(claim, ErrorSpec):
        expected["error"] = claim.model_dump(mode="json")
    elif claim:
        expected["survives"] = True
    return expected


def _fault(spec: FaultSpec, draws: Draws, timeout_s: Callable[[str], float], shard_bytes: float, arm: str) -> dict[str, Any]:
    def number(name: str, value: float | str) -> float:
        return magnitude.evaluate(value, name.rsplit("_", 1)[-1], timeout_s, shard_bytes)

    trigger = _condition(spec.trigger, draws) | {"after_s": float(number("after_s", spec.trigger.after_s))}
    target = _target(spec.target, draws)
    if spec.kind == FaultKind.CPU_CONTENTION:
        target["pin"] = True  # in every arm: the target keeps to one core, so that contention is all that differs
    words = worded(spec.kind)
    params = {name: value if name in words else number(name, value) for name, value in spec.params.items()}
    problem = parameter_problem(spec.kind, params)
    if problem:
        raise ImpossibleError(f"{spec.id}.params.{problem}")
    control = is_control(arm)
    # What is to follow a failure of the job has nothing to follow where nothing is done to it.
    idle = {"may_expire": True} if control and waits_for_error(trigger) else {}
    return {
        "id": spec.id,
        "kind": str(FaultKind.NOOP if control else spec.kind),
        "params": {} if control else params,
        "target": target,
        "trigger": trigger,
        **idle,
        "until": _until(spec.until, draws, number),
    }


def _condition(spec: Any, draws: Draws) -> dict[str, Any]:
    """A trigger's words as they stand in a plan (`injection.trigger.condition` reads them)."""
    match spec:
        case PointSpec():
            return _point(spec, draws)
        case FigureSpec():
            bound = {"below": spec.below} if spec.below is not None else {"above": spec.above}
            stage = {"stage": str(spec.stage)} if spec.stage else {}
            return {"metric": spec.metric, **bound, **stage, **_who(spec.role, spec.rank, draws)}
        case AllSpec():
            return {"all": [_condition(part, draws) for part in spec.parts]}
        case AnySpec():
            return {"any": [_condition(part, draws) for part in spec.parts]}
        case AfterSpec():
            return {"after": _condition(spec.after, draws), "then": _condition(spec.then, draws)}
        case OnceSpec():
            return {"once": _condition(spec.once, draws)}
        case EverySpec():
            return {"every": spec.every, "of": _condition(spec.of, draws)}
    raise AssertionError(spec)


def _point(spec: PointSpec, draws: Draws) -> dict[str, Any]:
    step = {"step": draws.step(spec.step, spec.steps_later)} if spec.step is not None else {}
    often = {"occurrence": spec.occurrence} if spec.occurrence else {}
    return {**step, "stage": str(spec.stage), "when": spec.when, **often, **_who(spec.role, spec.rank, draws)}


def _who(role: str | None, rank: int | str | None, draws: Draws) -> dict[str, str]:
    """Whose announcement or figure counts: a component, all of a role, or everybody's."""
    if role is None:
        return {}
    return {"who": str(role) if rank is None else draws.component(role, rank)}


def _until(spec: UntilSpec, draws: Draws, number: Callable[[str, float | str], float]) -> dict[str, Any]:
    if spec.after_s is not None:
        return {"after_s": float(number("after_s", spec.after_s))}
    if spec.event is not None:
        return {"event": _condition(spec.event, draws)}
    if spec.when == "exit":
        return {"when": "exit", "stage": str(spec.stage), "steps_later": spec.steps_later}
    return {"when": "end"}


def _target(spec: TargetSpec, draws: Draws) -> dict[str, Any]:
    if spec.link is None:
        assert spec.role is not None
        path = {"path": spec.path} if spec.path is not None else {}
        return {"type": spec.type, "component": draws.component(spec.role, spec.rank), **path}

    def end(process: Process) -> str:
        return draws.component(process.role, process.rank)

    return {"type": "link", "src": end(spec.link.src), "dst": end(spec.link.dst), "purpose": str(spec.link.purpose)}
