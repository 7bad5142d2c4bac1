"""The sweep: every fault kind in every stage on whom it concerns there, as scenarios that are generated and not written.

A cell is `sweep-<kind>-<stage>-<role or link>`, a scenario like any other. There is one magnitude a kind, big enough to matter
where somebody waits; whether it mattered is seen in the run and not promised here. Nor is it so big that nobody could tell it
from another kind: a delay longer than its caller's patience, or a loss that nothing survives, is a cut to whoever looks on.
What is no cell has its reason (`left_out`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from injection.registry import FAULTS, TARGETS
from storage.records import RANKED_ROLES, FaultKind, Role, Stage

PREFIX = "sweep-"
ARMS = ["control", "legacy"]
STEPS = [4, 7]
DEVELOPMENT, HELD_OUT = "development", "held-out"

#: Whom a fault of a process hits in a stage: who does its work, and another whom the job needs then or next.
PROCESSES: dict[Stage, tuple[Role, Role]] = {
    Stage.WEIGHTS_UPDATE: (Role.TRAIN, Role.METASERVER),
    Stage.ROLLOUT: (Role.ROLLOUT, Role.TRAIN),
    Stage.REWARD: (Role.REWARD, Role.ROLLOUT),
    Stage.REFERENCE: (Role.REFERENCE, Role.ROLLOUT),
    Stage.TRAIN: (Role.TRAIN, Role.REFERENCE),
    Stage.CHECKPOINT: (Role.TRAIN, Role.ROLLOUT),
}
#: Which links carry something in a stage. Scores travel while sampling goes on, but that is the stage `reward`.
LINKS: dict[Stage, tuple[tuple[Role, Role, str], ...]] = {
    Stage.WEIGHTS_UPDATE: ((Role.TRAIN, Role.METASERVER, "weights"), (Role.ROLLOUT, Role.METASERVER, "weights")),
    Stage.ROLLOUT: ((Role.CONTROLLER, Role.ROLLOUT, "rpc"),),
    Stage.REWARD: ((Role.ROLLOUT, Role.REWARD, "reward"), (Role.CONTROLLER, Role.ROLLOUT, "rpc")),
    Stage.REFERENCE: ((Role.CONTROLLER, Role.REFERENCE, "rpc"),),
    Stage.TRAIN: ((Role.CONTROLLER, Role.TRAIN, "rpc"),),
    Stage.CHECKPOINT: ((Role.CONTROLLER, Role.TRAIN, "rpc"),),
    Stage.CLEANUP: ((Role.CONTROLLER, Role.SCHEDULER, "scheduler"),),
}
#: In which stages somebody reads or writes the checkpoints, or is about to, in a job whose weights travel by them.
PATHS = (Stage.WEIGHTS_UPDATE, Stage.TRAIN, Stage.CHECKPOINT)
ON_CHECKPOINTS = {"weight_sync": "disk", "disk_source": "latest"}
CHECKPOINTS, MODEL = "recover", "recover/latest_checkpoint/model.pt"

#: How long whoever waits in a stage would wait.
TIMEOUTS: dict[Stage, str] = {
    Stage.WEIGHTS_UPDATE: "update_weights",
    Stage.ROLLOUT: "rollout",
    Stage.REWARD: "reward",
    Stage.REFERENCE: "reference",
    Stage.TRAIN: "train_batch",
    Stage.CHECKPOINT: "save",
    Stage.CLEANUP: "stop_job",
}

#: Stages of which there is no cell for a kind of target, and why.
REASONS: dict[tuple[str, Stage], str] = {
    ("process", Stage.INIT): "who is to be hit has not registered yet",
    ("link", Stage.INIT): "who is to be hit has not registered yet",
    ("path", Stage.INIT): "there is no checkpoint yet",
    ("process", Stage.CLEANUP): "who is to be hit is ended before the fault is proved",
    ("path", Stage.ROLLOUT): "nobody reads or writes checkpoints",
    ("path", Stage.REWARD): "nobody reads or writes checkpoints",
    ("path", Stage.REFERENCE): "nobody reads or writes checkpoints",
    ("path", Stage.CLEANUP): "nobody reads or writes checkpoints",
}
#: Where there is one cell instead of two.
ONE_LINK = "no other link carries anything"
ONE_OWNER = "one worker writes checkpoints"
ONE_ASKS = "a limit shows only when a process asks for more, and the other asks for nothing"
#: Stages whose requests are no larger than what a narrow link lets through at once.
SMALL_REQUESTS = (Stage.CHECKPOINT, Stage.CLEANUP)
TOO_SMALL = "what is sent is small enough for any rate, so a narrow link shows in a later stage"


@dataclass(frozen=True)
class SweepCell:
    """One generated scenario: ``whom`` is a role, or the two roles of a link."""

    kind: FaultKind
    stage: Stage
    whom: tuple[Role, ...]
    purpose: str = ""

    @property
    def name(self) -> str:
        """The scenario's name."""
        return PREFIX + "-".join((self.kind, self.stage.replace("_", "-"), *self.whom))

    @property
    def split(self) -> str:
        """Development or held out, by the name alone (`split_of`)."""
        return split_of(self.name)

    def scenario(self) -> dict[str, Any]:
        """What would be written in a file."""
        whom = " to ".join(self.whom)
        return {
            "name": self.name,
            "title": f"{self.kind} on {whom} as {self.stage} begins",
            "job": dict(ON_CHECKPOINTS) if self._acts_on == "path" else {},
            "arms": list(ARMS),
            "faults": [
                {
                    "id": "f1",
                    "kind": str(self.kind),
                    "target": self._target(),
                    "trigger": _trigger(self.stage),
                    "until": self._until(),
                    "params": self._params(),
                }
            ],
            "expected": {"root": {"stage": str(self.stage), "fault": "f1"}},
        }

    @property
    def _acts_on(self) -> str:
        return TARGETS[self.kind][0]

    def _target(self) -> dict[str, Any]:
        if self._acts_on == "path":
            return {"role": "train", "rank": 0, "path": MODEL if self.kind == FaultKind.FILE_CORRUPTION else CHECKPOINTS}
        if self._acts_on == "process":
            return _who(self.whom[0])
        return {"link": {"src": _who(self.whom[0]), "dst": _who(self.whom[1]), "purpose": self.purpose}}

    def _until(self) -> dict[str, Any]:
        # A disk that hangs for good would hold up whoever ends the run.
        hangs = self.kind == FaultKind.IO_CONTENTION
        return {"after_s": f"1.3 x timeout({TIMEOUTS[self.stage]})"} if hangs else {"when": "end"}

    def _params(self) -> dict[str, Any]:
        timeout = f"timeout({TIMEOUTS[self.stage]})"
        told: dict[FaultKind, dict[str, Any]] = {
            FaultKind.CPU_CONTENTION: {"share_percent": 95},
            FaultKind.MEMORY_PRESSURE: {"headroom_mib": 1},
            FaultKind.NETWORK_DELAY: {"delay_ms": f"0.6 x {timeout}"},
            FaultKind.NETWORK_BANDWIDTH: {"rate_bytes_per_s": f"shard_bytes / (6 x {timeout})", "direction": "both"},
            FaultKind.NETWORK_LOSS: {"loss_ratio": 0.6},
            FaultKind.DISK_FILL: {"percent": 99.9},
            FaultKind.IO_CONTENTION: {"how": "hang"},
            FaultKind.FILE_CORRUPTION: {"how": "truncate", "at_percent": 60},
            FaultKind.DNS_FAILURE: {"how": "nxdomain"},
        }
        return told.get(self.kind, {})


@cache
def sweep_cells() -> dict[str, SweepCell]:
    """Every cell by its name, in the order of kinds and stages."""
    cells = [SweepCell(kind, stage, *whom) for kind in FAULTS for stage in Stage for whom in _whom(kind, stage)]
    return {cell.name: cell for cell in cells}


def left_out() -> list[tuple[FaultKind, Stage, str]]:
    """What of kind x stage x two is no cell, and why; noop is no fault and not counted."""
    kinds = [kind for kind in FAULTS if kind != FaultKind.NOOP]
    return [(kind, stage, reason) for kind in kinds for stage in Stage for reason in _missing(kind, stage)]


def split_of(name: str) -> str:
    """A cell's split, which nobody chose: development if the first byte of the name's SHA-256 is even, else held-out."""
    return HELD_OUT if hashlib.sha256(name.encode()).digest()[0] % 2 else DEVELOPMENT


def _whom(kind: FaultKind, stage: Stage) -> Iterator[tuple[Any, ...]]:
    """What follows kind and stage in a cell."""
    if kind == FaultKind.NOOP or (kind == FaultKind.NETWORK_BANDWIDTH and stage in SMALL_REQUESTS):
        return
    match TARGETS[kind][0]:
        case "process":
            roles = PROCESSES.get(stage, ())
            yield from (((role,),) for role in (roles[:1] if kind == FaultKind.MEMORY_PRESSURE else roles))
        case "link":
            yield from (((src, dst), purpose) for src, dst, purpose in LINKS.get(stage, ()))
        case "path" if stage in PATHS:
            yield ((Role.TRAIN,),)


def _missing(kind: FaultKind, stage: Stage) -> Iterator[str]:
    acts_on, there = TARGETS[kind][0], len(list(_whom(kind, stage)))
    if kind == FaultKind.NETWORK_BANDWIDTH and stage in SMALL_REQUESTS:
        yield from [TOO_SMALL] * 2
    elif there == 0:
        yield from [REASONS[acts_on, stage]] * 2
    elif there == 1:
        yield {"link": ONE_LINK, "path": ONE_OWNER, "process": ONE_ASKS}[acts_on]


def _who(role: Role) -> dict[str, Any]:
    return {"role": str(role), **({"rank": "draw"} if role in RANKED_ROLES else {})}


def _trigger(stage: Stage) -> dict[str, Any]:
    """As the stage is entered, in a drawn step: a rollout worker announces rewards, and a checkpoint is not of every step."""
    begins = {"stage": str(stage), "when": "enter"}
    if stage == Stage.CLEANUP:
        return begins
    if stage == Stage.REWARD:
        return {"step": STEPS, **begins, "role": str(Role.ROLLOUT), "rank": "draw"}
    if stage == Stage.CHECKPOINT:
        return {"after": {"step": STEPS, "stage": str(Stage.TRAIN), "when": "exit"}, "then": begins}
    return {"step": STEPS, **begins}
