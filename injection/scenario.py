"""The scenario: hand-written YAML, checked in full before anything starts.

Every refusal names the key, its file and line, and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, TypeAdapter, ValidationError, model_validator

from injection import magnitude
from injection.marks import Lines, ScenarioError, line_of, read_yaml
from injection.registry import BY_NAME, FAULTS, ON_DISK, TARGETS, parameter_problem, worded
from injection.strict import Process, Rank, Strict, problem_of, refuse
from injection.when import EverySpec, TriggerSpec, UntilSpec, stages_of
from storage.records import FaultKind, Role, Stage

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
#: Postures that need no description: the job's defaults, and every mitigation on.
POSTURES = ("legacy", "hardened")
CONTROL = "control"
#: The control of a posture other than the scenario's own: `hardened-control`.
CONTROL_OF = f"-{CONTROL}"
#: The stages that a workload has.
STAGES: dict[str, frozenset[Stage]] = {
    "grpo": frozenset(Stage),
    "sft": frozenset({Stage.INIT, Stage.TRAIN, Stage.CHECKPOINT, Stage.CLEANUP}),
}
Purpose = Literal["rpc", "event", "weights", "reward", "generate", "scheduler", "beat"]
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
    # with posture `restart` alone
    ("controller", "metaserver"): ("weights",),
    ("controller", "reward"): ("reward",),
    # with posture `heartbeats` alone
    **{(role, "controller"): ("beat",) for role in ("train", "rollout", "reference", "metaserver", "reward", "serving")},
}


class LinkEnds(Strict):
    """Which socket: from whom to whom, and what for."""

    src: Process
    dst: Process
    purpose: Purpose

    @model_validator(mode="after")
    def _exists(self) -> LinkEnds:
        if self.purpose not in LINKS.get((self.src.role, self.dst.role), ()):
            known = "; ".join(f"{src} -> {dst}: {', '.join(purposes)}" for (src, dst), purposes in LINKS.items())
            raise refuse(f"there is no link {self.src.role} -> {self.dst.role}: {self.purpose}; allowed: {known}")
        return self


class TargetSpec(Strict):
    """A process by role and rank, a link, or a path in the job's folder with the process that it belongs to."""

    role: Role | None = None
    rank: Rank = None
    link: LinkEnds | None = None
    path: str | None = None

    @property
    def type(self) -> str:
        """process, link or path."""
        return "link" if self.link is not None else "process" if self.path is None else "path"

    @model_validator(mode="after")
    def _one(self) -> TargetSpec:
        if (self.role is None) == (self.link is None):
            raise refuse("must have either role (and rank) or link")
        if self.role is not None:
            Process(role=self.role, rank=self.rank) if self.rank is not None else Process(role=self.role)
        if self.path is not None and (self.role is None or self.path.startswith("/") or ".." in self.path.split("/")):
            raise refuse(
                "must lie in the job's folder ('recover/latest_checkpoint/model.pt'), with the role it belongs to", "path"
            )
        return self


class FaultSpec(Strict):
    """What is done to whom, when, for how long and how much."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
    kind: FaultKind
    target: TargetSpec
    trigger: TriggerSpec
    until: UntilSpec = UntilSpec(when="end")
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> FaultSpec:
        given = self.target.type
        if given not in TARGETS[self.kind]:
            raise refuse(f"{self.kind} acts on a {TARGETS[self.kind][0]}, not on a {given}", "target")
        _check_params(self.kind, self.params)
        if isinstance(self.trigger, EverySpec) and self.until.when == "end":
            raise refuse("a fault that comes every so often must end in between: after_s, an event, or a stage's exit", "until")
        return self


def _check_params(kind: FaultKind, params: dict[str, Any]) -> None:
    """Names, forms and (for plain numbers) ranges; a sentence's value is checked when it is known."""
    known = {field.name: field for field in fields(FAULTS[kind].parameters)}
    for name, value in params.items():
        if name not in known:
            raise refuse(f"unknown parameter of {kind}; allowed: {', '.join(known) or 'none'}", f"params.{name}")
        if isinstance(value, str) and name not in worded(kind):
            try:
                magnitude.parse(value)
            except ValueError as error:
                raise refuse(str(error), f"params.{name}") from error
    if any(isinstance(value, str) and name not in worded(kind) for name, value in params.items()):
        return
    problem = parameter_problem(kind, params)
    if problem:
        name, _, rest = problem.partition(": ")
        raise refuse(rest, f"params.{name}")


class Root(Strict):
    """Where the cause is: a stage and the fault that makes it."""

    stage: Stage
    fault: str


class ErrorSpec(Strict):
    """Where it shows: a stage, the role that says so, and words of what it says."""

    stage: Stage
    role: Role
    text: str


#: What an arm comes to. The marks keep the choice out of the names of keys.
Claim = Annotated[
    Annotated[ErrorSpec, Tag("<error>")] | Annotated[Literal["survives"], Tag("<word>")],
    Discriminator(lambda claim: "<word>" if isinstance(claim, str) else "<error>"),
]


class Expected(Strict):
    """What the scenario claims of each arm; compared with what happened, never fed into it.

    An arm has either an error, or the word `survives`: every step done, no sample lost or invented.
    """

    root: Root
    arms: dict[Name, Claim] = Field(default_factory=dict)


def _unique_faults(faults: tuple[FaultSpec, ...]) -> tuple[FaultSpec, ...]:
    if not faults:
        raise refuse("there must be at least one fault; one of kind noop makes a run in which nothing is done")
    names = [fault.id for fault in faults]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise refuse(f"id {twice[0]!r} is given to two faults")
    return faults


def _unique_arms(arms: tuple[Name, ...]) -> tuple[Name, ...]:
    if not arms or len(set(arms)) != len(arms):
        raise refuse(f"must name at least one arm, each once (got {list(arms)!r})")
    return arms


class Scenario(Strict):
    """Workload, postures, faults and what is expected of them.

    `postures` describes sets of single mitigations by name. An arm is `control` (no fault, in the posture `posture`), a
    posture, or `<posture>-control`. `sources` (what is looked at besides processes and hosts) and `sample_hz` are the
    profile's where they are absent. A `decoy` does something on purpose that is no fault: nothing is to come of it.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,60}$")]
    title: Annotated[str, Field(min_length=1)]
    catalogue: Annotated[int, Field(ge=0)] | None = None
    workload: Literal["grpo", "sft"] = "grpo"
    decoy: bool = False
    posture: Name = "legacy"
    postures: dict[Name, dict[str, bool | str]] = Field(default_factory=dict)
    job: dict[str, Any] = Field(default_factory=dict)
    arms: Annotated[tuple[Name, ...], AfterValidator(_unique_arms)] = (CONTROL, "legacy")
    faults: Annotated[tuple[FaultSpec, ...], AfterValidator(_unique_faults)]
    expected: Expected | None = None
    disk_mib: Annotated[int, Field(ge=16, le=4096)] = 64
    sources: tuple[str, ...] | None = None
    sample_hz: Annotated[float, Field(ge=1, le=20)] | None = None

    @property
    def own_disk_mib(self) -> int:
        """Size of a disk of the job's own for its checkpoints, which faults of disks need (in every arm); 0 = none."""
        return self.disk_mib if any(fault.kind in ON_DISK for fault in self.faults) else 0

    @property
    def by_name(self) -> bool:
        """Whether the job's links are dialled by host name (in every arm), which faults of names need."""
        return any(fault.kind in BY_NAME for fault in self.faults)

    @model_validator(mode="after")
    def _fits(self) -> Scenario:
        self._check_postures()
        self._check_stages()
        names = [fault.id for fault in self.faults]
        if self.decoy and self.expected:
            raise refuse("a decoy has no root and no error: every arm of it survives", "expected")
        if self.expected and self.expected.root.fault not in names:
            raise refuse(f"there is no such fault; allowed: {', '.join(names)}", "expected.root.fault")
        claimed = [arm for arm in self.arms if not is_control(arm)]
        for arm in self.expected.arms if self.expected else ():
            if arm not in claimed:
                raise refuse(f"is no arm with faults; there are: {', '.join(claimed) or 'none'}", f"expected.arms.{arm}")
        return self

    def posture_of(self, arm: str) -> str:
        """The name of the posture that the job has in an arm."""
        return self.posture if arm == CONTROL else arm.removesuffix(CONTROL_OF)

    def control_of(self, posture: str) -> str:
        """The arm in which nothing is done to a job in this posture; it can be planned although no scenario lists it."""
        return CONTROL if posture == self.posture else posture + CONTROL_OF

    def has_arm(self, arm: str) -> bool:
        """Whether the arm is listed, or is the control of one that is."""
        return arm in self.arms or arm in {self.control_of(self.posture_of(one)) for one in self.arms}

    def _check_postures(self) -> None:
        for name in self.postures:
            if name in (*POSTURES, CONTROL) or name.endswith(CONTROL_OF):
                raise refuse("this name has a meaning of its own", f"postures.{name}")
        known = (*POSTURES, *self.postures)
        for index, arm in enumerate(self.arms):
            if self.posture_of(arm) not in known:
                told = f"allowed: {CONTROL}, {', '.join(known)} (or describe it under postures)"
                raise refuse(f"{arm!r} is not allowed; {told}", f"arms.{index}")
        if self.posture not in known:
            raise refuse(f"{self.posture!r} is not allowed; allowed: {', '.join(known)}", "posture")
        if "posture" in self.job:
            raise refuse("is said by the arm; describe a set of switches under postures, by a name", "job.posture")
        if "workload" in self.job:
            raise refuse("is said by the scenario's own key workload", "job.workload")

    def _check_stages(self) -> None:
        there = STAGES[self.workload]
        for index, fault in enumerate(self.faults):
            for part in ("trigger", "until"):
                for stage in sorted(stages_of(getattr(fault, part)) - there):
                    raise refuse(no_stage(self.workload, stage), f"faults.{index}.{part}.stage")
        if self.expected and self.expected.root.stage not in there:
            raise refuse(no_stage(self.workload, self.expected.root.stage), "expected.root.stage")


def no_stage(workload: str, stage: Stage) -> str:
    """The sentence for a stage that a workload does not have."""
    return f"workload {workload} has no stage {stage}; it has: {', '.join(one for one in Stage if one in STAGES[workload])}"


def is_control(arm: str) -> bool:
    """Whether nothing is done to the job in this arm."""
    return arm == CONTROL or arm.endswith(CONTROL_OF)


def load_scenario(
    path: Path,
    job_keys: Collection[str] = (),
    timeout_names: Collection[str] = (),
    check_posture: Callable[[dict[str, Any]], object] = dict,
    workload: str | None = None,
    sources: Collection[str] = (),
) -> Scenario:
    """Read and check a scenario. Raises ScenarioError with one line a problem.

    `job_keys`, `timeout_names`, `check_posture` (raises ValueError) and `sources` are the vocabularies of other rooms; without
    them these are unchecked. `workload` takes the place of the scenario's own; what the
    scenario claims of its arms it does not claim of another workload.
    """
    data, lines = read_yaml(path)
    return check_scenario(data, lines, path, job_keys, timeout_names, check_posture, workload, sources)


def check_scenario(
    data: Any,
    lines: Lines,
    path: Path,
    job_keys: Collection[str] = (),
    timeout_names: Collection[str] = (),
    check_posture: Callable[[dict[str, Any]], object] = dict,
    workload: str | None = None,
    sources: Collection[str] = (),
) -> Scenario:
    """`load_scenario` of what was read already, or never was in a file (then `path` is the name that refusals tell)."""
    _number_faults(data)
    if workload and isinstance(data, dict) and workload != data.get("workload", "grpo"):
        data["workload"] = workload
        if isinstance(data.get("expected"), dict):
            data["expected"].pop("arms", None)
    try:
        scenario = TypeAdapter(Scenario).validate_python(data)
    except ValidationError as error:
        raise ScenarioError("\n".join(_sentence(path, lines, dict(item)) for item in error.errors())) from error
    for name in scenario.job:
        if job_keys and name not in job_keys:
            where = f"{path}:{line_of(('job', name), lines)}: job.{name}"
            raise ScenarioError(f"{where}: unknown key; allowed: {', '.join(sorted(job_keys))}")
    for index, name in enumerate(scenario.sources or ()):
        if sources and name not in sources:
            where = f"{path}:{line_of(('sources', index), lines)}: sources.{index}"
            raise ScenarioError(f"{where}: {name!r} is not allowed; allowed: {', '.join(sources)}")
    for name, switches in scenario.postures.items():
        try:
            check_posture(switches)
        except ValueError as error:
            raise ScenarioError(f"{path}:{line_of(('postures', name), lines)}: postures.{name}: {error}") from error
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
    where, problem = problem_of(error)
    return f"{path}:{line_of(where, lines)}: {'.'.join(map(str, where)) or 'scenario'}: {problem}"
