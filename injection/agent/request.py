"""What an experimenter may ask of an agent: faults on processes, files and links of its host, checked in full before anything.

    faults:
    - kind: network-delay
      params: {delay_ms: 40}
      target: {pid: 4711, link: {src: 10.0.0.1, dst: "10.0.0.2:8080", src_network: web, dst_network: store}}
      for_s: 30
    lease_s: 5

The process is the one that is hit, that dials the link, or that the path belongs to. A network is one that `ip netns` names;
empty is the agent's own. A link that a proxy relays is told by that alone: `{pid: 4711, link: {proxy: cache}}`.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from injection.registry import TARGETS, parameter_problem
from injection.strict import Strict, problem_of, refuse
from storage.records import FaultKind

#: The point at which all faults of an experiment fire: nothing but the agent announces it.
POINT: dict[str, Any] = {"step": 0, "stage": "init", "when": "enter"}
MOST_FAULTS, MOST_S = 16, 86_400.0
LEAST_LEASE_S, MOST_LEASE_S = 1.0, 60.0
Seconds = Annotated[float, Field(ge=0, le=MOST_S, allow_inf_nan=False)]


def _address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise refuse(f"must be an IPv4 address (got {text!r})") from error


def _endpoint(text: str) -> str:
    address, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise refuse(f"must be ADDRESS:PORT (got {text!r})")
    return f"{_address(address)}:{int(port)}"


def _network(text: str) -> str:
    if "/" in text or text.startswith("."):
        raise refuse(f"must be the name of a network as `ip netns` tells it (got {text!r})")
    return text


Network = Annotated[str, AfterValidator(_network)]


class LinkSpec(Strict):
    """Packets between two addresses at a port, or what a proxy relays."""

    src: Annotated[str, AfterValidator(_address)] | None = None
    dst: Annotated[str, AfterValidator(_endpoint)] | None = None
    src_network: Network = ""
    dst_network: Network = ""
    proxy: Annotated[str, Field(max_length=200)] = ""

    @model_validator(mode="after")
    def _one(self) -> LinkSpec:
        ends = (self.src is not None) + (self.dst is not None)
        if ends != (0 if self.proxy else 2):
            raise refuse("must have either src and dst, or proxy")
        return self


class TargetSpec(Strict):
    """A process; with `path` a file or folder of it, with `link` what it dials."""

    pid: Annotated[int, Field(ge=1, le=1 << 22)]
    path: Annotated[str, Field(pattern=r"^/", max_length=4096)] | None = None
    link: LinkSpec | None = None

    @property
    def type(self) -> str:
        """process, path or link."""
        return "link" if self.link is not None else "path" if self.path is not None else "process"

    @model_validator(mode="after")
    def _one(self) -> TargetSpec:
        if self.link is not None and self.path is not None:
            raise refuse("must have at most one of path and link")
        return self


class FaultSpec(Strict):
    """What is done to whom, how much, how long after the others (`after_s`) and for how long (none = until the lease ends)."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
    kind: FaultKind
    target: TargetSpec
    params: dict[str, Any] = Field(default_factory=dict)
    after_s: Seconds = 0.0
    for_s: Annotated[float, Field(gt=0, le=MOST_S, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> FaultSpec:
        given, able = self.target.type, TARGETS[self.kind]
        if given not in able:
            raise refuse(f"{self.kind} acts on a {able[0]}, not on a {given}", "target")
        problem = parameter_problem(self.kind, self.params)
        if problem:
            name, _, rest = problem.partition(": ")
            raise refuse(rest, f"params.{name}")
        return self

    def plan(self) -> dict[str, Any]:
        """The fault as an injector's plan has it. Its target's component bears the fault's id."""
        place: dict[str, Any] = {"type": self.target.type, "component": self.id}
        if self.target.link is not None:
            place = {"type": "link", "src": self.id, "dst": f"{self.id}-far", "purpose": "link"}
        elif self.target.path is not None:
            place["path"] = self.target.path
        until = {"when": "end"} if self.for_s is None else {"after_s": self.for_s}
        trigger = {**POINT, "after_s": self.after_s}
        return {
            "id": self.id,
            "kind": str(self.kind),
            "params": self.params,
            "target": place,
            "trigger": trigger,
            "until": until,
        }


class Request(Strict):
    """Faults that are armed together and fire at one moment, and the lease that keeps them in force."""

    faults: tuple[FaultSpec, ...]
    lease_s: Annotated[float, Field(ge=LEAST_LEASE_S, le=MOST_LEASE_S, allow_inf_nan=False)] = 5.0

    @model_validator(mode="after")
    def _fits(self) -> Request:
        if not 1 <= len(self.faults) <= MOST_FAULTS:
            raise refuse(f"must be 1 to {MOST_FAULTS} faults (got {len(self.faults)})", "faults")
        names = [fault.id for fault in self.faults]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise refuse(f"id {twice[0]!r} is given to two faults", "faults")
        links = [fault.target.link for fault in self.faults if fault.target.link is not None]
        if any(link.proxy for link in links) and not all(link.proxy for link in links):
            raise refuse("links by a proxy and links by packets cannot be in one experiment", "faults")
        return self

    @property
    def relayed(self) -> bool:
        """Whether its links are those of a proxy."""
        return any(fault.target.link is not None and fault.target.link.proxy for fault in self.faults)


def read_request(message: dict[str, Any]) -> Request:
    """Check a message. Raises ValueError with one line a problem: key, problem, what is allowed."""
    faults = message.get("faults")
    for number, fault in enumerate(faults if isinstance(faults, list) else (), start=1):
        if isinstance(fault, dict):
            fault.setdefault("id", f"f{number}")
    try:
        return TypeAdapter(Request).validate_python(message)
    except ValidationError as error:
        problems = [problem_of(dict(item)) for item in error.errors()]
    raise ValueError("; ".join(f"{'.'.join(map(str, where)) or 'request'}: {problem}" for where, problem in problems))
