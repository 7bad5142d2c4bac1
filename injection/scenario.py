"""The scenario: hand-written YAML, checked in full before anything starts.

Every refusal names the key, its file and line, and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from injection import magnitude
from injection.marks import Lines, ScenarioError, line_of, read_yaml
from injection.registry import FAULTS, TARGETS, parameter_problem, worded
from storage.records import RANKED_ROLES, FaultKind, Role, Stage

Posture = Literal["legacy"]
Arm = Literal["control", "legacy"]
Purpose = Literal["rpc", "event", "weights", "reward", "generate", "scheduler"]
#: The sockets a job has: source role, destination role -> purposes.
LINKS: dict[tuple[str, str], tuple[str, ...]] = {
    ("controller", "train"): ("rpc", "event"),
    ("controller", "rollout"): ("rpc", "event"),
    ("controller", "reference"): ("rpc",),
    ("controller", "scheduler"): ("scheduler",),
    ("train", "metaserver"): ("weights",),
    ("rollout", "metaserver"): ("weights",),
    ("rollout", "reward"): ("reward",),
    ("rollout", "serving"): ("generate",),
}


def _refuse(problem: str, key: str = "") -> PydanticCustomError:
    return PydanticCustomError("refused", "{problem}", {"problem": problem, "key": key})


class Strict(BaseModel):
    """A frozen part of a scenario that refuses keys it does not know, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise _refuse(f"must be a mapping with keys {', '.join(cls.model_fields)} (got {data!r})")
        for key in data:
            if key not in cls.model_fields:
                raise _refuse(f"unknown key; allowed: {', '.join(cls.model_fields)}", str(key))
        return data


def _rank(value: Any) -> int | str:
    if value == "draw" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return "draw" if value == "draw" else int(value)
    raise _refuse(f"must be a whole number from 0, or 'draw' (got {value!r})")


def _step(value: Any) -> int | tuple[int, int]:
    whole = [value] if not isinstance(value, list) else value
    if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in whole):
        raise _refuse(f"must be a whole number from 0, or a range [low, high] of them (got {value!r})")
    if not isinstance(value, list):
        return int(value)
    if len(value) != 2 or value[0] > value[1]:
        raise _refuse(f"a range is [low, high] with low <= high (got {value!r})")
    return value[0], value[1]


def _magnitude(value: Any) -> float | str:
    if isinstance(value, str):
        try:
            magnitude.parse(value)
        except ValueError as error:
            raise _refuse(str(error)) from error
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise _refuse(f"must be {magnitude.FORMS}, not negative (got {value!r})")
    return value


Rank = Annotated[Any, BeforeValidator(_rank)]
StepDraw = Annotated[Any, BeforeValidator(_step)]
Seconds = Annotated[Any, BeforeValidator(_magnitude)]


class Process(Strict):
    """Who: a role and, where there are several of it, which one; `draw` leaves that to the seed."""

    role: Role
    rank: Rank = None

    @model_validator(mode="after")
    def _rank_where_needed(self) -> Process:
        if self.role in RANKED_ROLES and self.rank is None:
            raise _refuse(f"rank: required for role {self.role}: a whole number from 0, or 'draw'")
        if self.role not in RANKED_ROLES and self.rank is not None:
            raise _refuse(f"there is only one {self.role}, it has no rank", "rank")
        return self


class LinkEnds(Strict):
    """Which socket: from whom to whom, and what for."""

    src: Process
    dst: Process
    purpose: Purpose

    @model_validator(mode="after")
    def _exists(self) -> LinkEnds:
        if self.purpose not in LINKS.get((self.src.role, self.dst.role), ()):
            known = "; ".join(f"{src} -> {dst}: {', '.join(purposes)}" for (src, dst), purposes in LINKS.items())
            raise _refuse(f"there is no link {self.src.role} -> {self.dst.role}: {self.purpose}; allowed: {known}")
        return self


class TargetSpec(Strict):
    """A process by role and rank, or a link."""

    role: Role | None = None
    rank: Rank = None
    link: LinkEnds | None = None

    @model_validator(mode="after")
    def _one(self) -> TargetSpec:
        if (self.role is None) == (self.link is None):
            raise _refuse("must have either role (and rank) or link")
        if self.role is not None:
            Process(role=self.role, rank=self.rank) if self.rank is not None else Process(role=self.role)
        return self


class TriggerSpec(Strict):
    """When: at a stage's enter, exit or error, in a step or a step drawn from a range; `after_s` later.

    Equal ranges are one draw; `steps_later` puts a fault so many steps behind the others of its range.
    """

    step: StepDraw
    steps_later: Annotated[int, Field(ge=0)] = 0
    stage: Stage
    when: Literal["enter", "exit", "error"]
    after_s: Seconds = 0.0


class UntilSpec(Strict):
    """How long: to the end of the run, to a stage's exit (`steps_later` than the trigger's), or for `after_s` seconds."""

    when: Literal["end", "exit"] | None = None
    stage: Stage | None = None
    steps_later: Annotated[int, Field(ge=0)] = 0
    after_s: Seconds = None

    @model_validator(mode="after")
    def _one(self) -> UntilSpec:
        if (self.when is None) == (self.after_s is None):
            raise _refuse("must have either when (end or exit) or after_s")
        if (self.when == "exit") != (self.stage is not None):
            raise _refuse("stage belongs to 'when: exit', and is required there")
        return self


class FaultSpec(Strict):
    """What is done to whom, when, for how long and how much."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
    kind: FaultKind
    target: TargetSpec
    trigger: TriggerSpec
    until: UntilSpec = UntilSpec(when="end")
    params: dict[str, Any] = {}

    @model_validator(mode="after")
    def _fits(self) -> FaultSpec:
        given = "process" if self.target.link is None else "link"
        if given not in TARGETS[self.kind]:
            raise _refuse(f"{self.kind} acts on a {TARGETS[self.kind][0]}, not on a {given}", "target")
        _check_params(self.kind, self.params)
        return self


def _check_params(kind: FaultKind, params: dict[str, Any]) -> None:
    """Names, forms and (for plain numbers) ranges; a sentence's value is checked when it is known."""
    known = {field.name: field for field in fields(FAULTS[kind].parameters)}
    for name, value in params.items():
        if name not in known:
            raise _refuse(f"unknown parameter of {kind}; allowed: {', '.join(known) or 'none'}", f"params.{name}")
        if isinstance(value, str) and name not in worded(kind):
            try:
                magnitude.parse(value)
            except ValueError as error:
                raise _refuse(str(error), f"params.{name}") from error
    if any(isinstance(value, str) and name not in worded(kind) for name, value in params.items()):
        return
    problem = parameter_problem(kind, params)
    if problem:
        name, _, rest = problem.partition(": ")
        raise _refuse(rest, f"params.{name}")


class Root(Strict):
    """Where the cause is: a stage and the fault that makes it."""

    stage: Stage
    fault: str


class ErrorSpec(Strict):
    """Where it shows: a stage, the role that says so, and words of what it says."""

    stage: Stage
    role: Role
    text: str


class Expected(Strict):
    """What the scenario claims; compared with what happened, never fed into it."""

    root: Root
    error: ErrorSpec | None = None


def _unique_faults(faults: tuple[FaultSpec, ...]) -> tuple[FaultSpec, ...]:
    if not faults:
        raise _refuse("there must be at least one fault; one of kind noop makes a run in which nothing is done")
    names = [fault.id for fault in faults]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _refuse(f"id {twice[0]!r} is given to two faults")
    return faults


def _unique_arms(arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    if not arms or len(set(arms)) != len(arms):
        raise _refuse(f"must name at least one arm, each once (got {list(arms)!r})")
    return arms


class Scenario(Strict):
    """Workload, posture, faults and what is expected of them."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,60}$")]
    title: Annotated[str, Field(min_length=1)]
    catalogue: Annotated[int, Field(ge=0)] | None = None
    workload: Literal["grpo"] = "grpo"
    posture: Posture = "legacy"
    job: dict[str, Any] = {}
    arms: Annotated[tuple[Arm, ...], AfterValidator(_unique_arms)] = ("control", "legacy")
    faults: Annotated[tuple[FaultSpec, ...], AfterValidator(_unique_faults)]
    expected: Expected | None = None

    @model_validator(mode="after")
    def _root_is_ours(self) -> Scenario:
        names = [fault.id for fault in self.faults]
        if self.expected and self.expected.root.fault not in names:
            raise _refuse(f"there is no such fault; allowed: {', '.join(names)}", "expected.root.fault")
        return self


def load_scenario(path: Path, job_keys: Collection[str] = (), timeout_names: Collection[str] = ()) -> Scenario:
    """Read and check a scenario. Raises ScenarioError with one line a problem.

    `job_keys` and `timeout_names` are the job's own vocabularies (its configuration lives in another room); empty = unchecked.
    """
    data, lines = read_yaml(path)
    _number_faults(data)
    try:
        scenario = TypeAdapter(Scenario).validate_python(data)
    except ValidationError as error:
        raise ScenarioError("\n".join(_sentence(path, lines, dict(item)) for item in error.errors())) from error
    for key in scenario.job:
        if job_keys and key not in job_keys:
            raise ScenarioError(
                f"{path}:{line_of(('job', key), lines)}: job.{key}: unknown key; allowed: {', '.join(sorted(job_keys))}"
            )
    _check_timeouts(path, lines, data, timeout_names)
    return scenario


def _number_faults(data: Any) -> None:
    """Faults without an id are called f1, f2, ... in the order of the file."""
    if isinstance(data, dict) and isinstance(data.get("faults"), list):
        for number, fault in enumerate(data["faults"], start=1):
            if isinstance(fault, dict):
                fault.setdefault("id", f"f{number}")


def _check_timeouts(path: Path, lines: Lines, data: Any, names: Collection[str], where: tuple[str | int, ...] = ()) -> None:
    """Refuse `timeout(NAME)` of a name the job does not have, wherever a fault says it."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        _check_timeouts(path, lines, value, names, (*where, key))
    found = re.search(r"timeout\(\s*([a-z_]+)\s*\)", data) if isinstance(data, str) and where[:1] == ("faults",) else None
    if names and found and found[1] not in names:
        key = ".".join(map(str, where))
        raise ScenarioError(
            f"{path}:{line_of(where, lines)}: {key}: no time-out {found[1]!r}; allowed: {', '.join(sorted(names))}"
        )


def _sentence(path: Path, lines: Lines, error: dict[str, Any]) -> str:
    """One problem in the form `file:line: key: problem`."""
    context = error.get("ctx", {})
    extra = tuple(part for part in str(context.get("key", "")).split(".") if part)
    where = tuple(error["loc"]) + extra
    key = ".".join(map(str, where)) or "scenario"
    if error["type"] in ("enum", "literal_error"):
        problem = f"{error['input']!r} is not allowed; allowed: {context['expected'].replace(' or ', ', ')}"
    elif error["type"] == "missing":
        problem = "required, but missing"
    elif error["type"] == "refused":
        problem = context["problem"]
    else:
        problem = f"{error['msg'][0].lower()}{error['msg'][1:]} (got {error['input']!r})"
    return f"{path}:{line_of(where, lines)}: {key}: {problem}"
