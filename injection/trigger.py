"""When a fault fires: pure decisions over the announced events, no clock, no input or output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from storage.records import StageEvent


@dataclass(frozen=True)
class Fire:
    """Now, or `after_s` seconds after the event arrived."""

    after_s: float


@dataclass(frozen=True)
class Wait:
    """Not yet."""


@dataclass(frozen=True)
class Expired:
    """It can no longer fire; `reason` is one clause. The run is invalid, it is not a run in which nothing happened."""

    reason: str


Decision = Fire | Wait | Expired


@dataclass(frozen=True)
class Trigger:
    """The point `when` (enter, exit or error) of `stage` in `step`; `component` empty = whoever announces it first."""

    stage: str
    step: int
    when: str
    after_s: float = 0.0
    component: str = ""

    def step_on(self, event: StageEvent) -> Decision:
        """What this event means. Steps never go back, so a later one means that ours has passed."""
        if event.step > self.step:
            return Expired(f"step {event.step} began before {self.point} was announced")
        here = event.step == self.step and event.stage == self.stage and event.phase == self.when
        if here and self.component in ("", event.component):
            return Fire(self.after_s)
        return Wait()

    def end(self) -> Expired:
        """What the end of the job means to a trigger that has not fired."""
        return Expired(f"the job ended before {self.point} was announced")

    @property
    def point(self) -> str:
        """The point in words."""
        return f"{self.when} of {self.stage} in step {self.step}"


def from_plan(data: dict[str, Any]) -> Trigger:
    """The trigger of a plan's fault."""
    return Trigger(data["stage"], int(data["step"]), data["when"], float(data.get("after_s", 0.0)), data.get("component", ""))


@dataclass(frozen=True)
class Ending:
    """The stage at whose end, good or bad, a fault ends."""

    stage: str
    step: int

    def reached_by(self, event: StageEvent) -> bool:
        """Whether the event is that end, or comes after it."""
        here = event.step == self.step and event.stage == self.stage and event.phase in ("exit", "error")
        return here or event.step > self.step


def ending(until: dict[str, Any]) -> Ending | None:
    """The stage's end that ends a fault, or None where it ends otherwise."""
    return Ending(until["stage"], int(until["step"])) if until.get("when") == "exit" else None
