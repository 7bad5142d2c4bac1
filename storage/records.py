"""The lab's nouns as frozen records: closed vocabularies, targets, labels, receipts, diagnoses and scores.

Everything here is standard library only, so that any room (and any diagnoser) can import it.
Times: ``wall_s`` is seconds since the Unix epoch; ``mono_s`` is ``time.monotonic()`` of the machine (one clock for all
processes of one kernel).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 1


class Stage(StrEnum):
    """Where the job is. A closed vocabulary: triggers, labels and diagnoses use these words and no others."""

    INIT = "init"
    WEIGHTS_UPDATE = "weights_update"
    ROLLOUT = "rollout"
    REWARD = "reward"
    REFERENCE = "reference"
    TRAIN = "train"
    CHECKPOINT = "checkpoint"
    CLEANUP = "cleanup"


class Phase(StrEnum):
    """What is announced about a stage."""

    ENTER = "enter"
    EXIT = "exit"
    ERROR = "error"


class FaultKind(StrEnum):
    """What can be done to a job. The labels a diagnosis may answer with."""

    NOOP = "noop"
    PROCESS_KILL = "process-kill"
    PROCESS_PAUSE = "process-pause"
    CPU_CONTENTION = "cpu-contention"
    MEMORY_PRESSURE = "memory-pressure"
    NETWORK_DELAY = "network-delay"
    NETWORK_BANDWIDTH = "network-bandwidth"
    DISK_FILL = "disk-fill"
    IO_CONTENTION = "io-contention"
    FILE_CORRUPTION = "file-corruption"
    DNS_FAILURE = "dns-failure"
    NETWORK_LOSS = "network-loss"
    NETWORK_PARTITION = "network-partition"
    NETWORK_RESET = "network-reset"


class Role(StrEnum):
    """What a process of the job is for."""

    CONTROLLER = "controller"
    SCHEDULER = "scheduler"
    METASERVER = "metaserver"
    REWARD = "reward"
    SERVING = "serving"
    REFERENCE = "reference"
    TRAIN = "train"
    ROLLOUT = "rollout"


#: Roles of which there may be several; their components carry a rank ("train0"), the others do not ("metaserver").
RANKED_ROLES = (Role.REFERENCE, Role.TRAIN, Role.ROLLOUT)


def component_name(role: str, rank: int | None) -> str:
    """The one spelling of a component: no underscore and no clue, e.g. ``train0``, ``metaserver``."""
    return f"{role}{rank}" if role in tuple(RANKED_ROLES) else str(role)


@dataclass(frozen=True)
class Registration:
    """One process of the job, as it announced itself (``registry/<component>.json``).

    ``start_ticks`` is field 22 of ``/proc/<pid>/stat``: pid and start time together never mean another process.
    ``pid`` counts in the PID namespace the job runs in. ``ports`` maps a purpose to the port the process listens on.
    """

    component: str
    role: str
    rank: int
    host: str
    pid: int
    start_ticks: int
    address: str
    ports: dict[str, int] = field(default_factory=dict)
    log: str = ""


@dataclass(frozen=True)
class Link:
    """A socket between two components, by purpose. ``address`` is ``ip:port`` as dialled."""

    src: str
    dst: str
    purpose: str
    address: str

    @property
    def name(self) -> str:
        """The key of the link in the name table."""
        return f"{self.src}>{self.dst}:{self.purpose}"


@dataclass(frozen=True)
class StageEvent:
    """One announcement of the seam: ``component`` is at ``phase`` of ``stage`` in ``step``."""

    wall_s: float
    mono_s: float
    component: str
    step: int
    stage: str
    phase: str
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """Proof about a fault, measured by a probe that does not read back the rule that made it.

    ``about`` is ``applied`` or ``gone``; ``ok`` says whether the measurement agrees with it; ``measured`` holds the
    figures, each key ending in its unit (``rate_bytes_per_s``, ``share_ratio``).
    """

    fault_id: str
    about: str
    ok: bool
    probe: str
    measured: dict[str, float | int | str | bool]
    wall_s: float
    mono_s: float


@dataclass(frozen=True)
class Label:
    """The sealed truth of a case, in the closed vocabularies; ``component`` is the job's own name of it.

    ``kinds`` holds every fault kind that was injected (a scenario may compose several); an answer naming any of them is
    right about the kind. For ``fault=False`` (control, healthy) all three are empty and an abstention or "no fault" is right.
    For a link fault ``component`` is the source and ``peer`` the destination.
    """

    fault: bool
    component: str
    stage: str
    kinds: tuple[str, ...]
    peer: str = ""
    step: int = -1


@dataclass(frozen=True)
class Cause:
    """One candidate root cause."""

    component: str
    stage: str
    kind: str


@dataclass(frozen=True)
class Diagnosis:
    """A diagnoser's answer: causes from most to least likely, or ``fault=False`` for "nothing is wrong".

    ``abstain`` means no answer; it scores zero and is counted apart. ``confidence`` is the probability that the first cause
    is right, or None. ``chain`` lists components from root to symptom. ``alarm`` is the time, by the case's clock, of the first
    sign that something is wrong; empty where none is told.
    """

    fault: bool
    ranked: tuple[Cause, ...]
    abstain: bool = False
    confidence: float | None = None
    chain: tuple[str, ...] = ()
    reason: str = ""
    alarm: str = ""


def to_dict(record: Any) -> dict[str, Any]:
    """A record as plain JSON types."""
    return asdict(record)
