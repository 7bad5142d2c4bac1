"""When a fault fires: pure decisions over what the job announced and told, no clock, no input or output.

A condition hears one thing after the other; each time it answers with its next state and whether it fires now. Conditions are
values: hearing makes a new one. `Trigger` holds the outermost one to firing once, unless that is `every`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from storage.records import StageEvent


@dataclass(frozen=True)
class Reading:
    """A figure that the job told about a component."""

    component: str
    step: int
    stage: str
    metric: str
    value: float


Heard = StageEvent | Reading


class Condition(Protocol):
    """`dead` is one clause, why it can never fire again; empty while it can. `words` say what it waits for."""

    @property
    def dead(self) -> str: ...

    @property
    def words(self) -> str: ...

    def hear(self, heard: Heard) -> tuple[Condition, bool]:
        """Its next state, and whether it fires on this."""


def _by(who: str, component: str) -> bool:
    """Whether a component is meant: `who` is its name, its role (a name without rank), or empty for everybody."""
    return who in ("", component, component.rstrip("0123456789"))


@dataclass(frozen=True)
class Point:
    """`when` (enter, exit or error) of `stage`; in `step`, or in any (None); announced by `who`; each time, or the nth only.

    Steps never go back, so a later one means that ours has passed.
    """

    stage: str
    when: str
    step: int | None = None
    who: str = ""
    occurrence: int = 0
    seen: int = 0
    dead: str = ""

    @property
    def words(self) -> str:
        """The point in words."""
        times = f"time {self.occurrence} of " if self.occurrence else ""
        by = f" by {self.who}" if self.who else ""
        where = "any step" if self.step is None else f"step {self.step}"
        return f"{times}{self.when} of {self.stage} in {where}{by}"

    def hear(self, heard: Heard) -> tuple[Point, bool]:
        """An announcement of this very point."""
        if self.dead or not isinstance(heard, StageEvent):
            return self, False
        if self.step is not None and heard.step > self.step:
            return replace(self, dead=f"step {heard.step} began before {self.words} was announced"), False
        here = (heard.stage, heard.phase) == (self.stage, self.when) and self.step in (None, heard.step)
        if not (here and _by(self.who, heard.component)):
            return self, False
        seen = self.seen + 1
        return replace(self, seen=seen), self.occurrence in (0, seen)


@dataclass(frozen=True)
class Figure:
    """`metric` of `who` (told in `stage`, where that is given) comes to lie below or above `bound`: each time."""

    metric: str
    bound: float
    below: bool
    stage: str = ""
    who: str = ""
    true: bool = False
    dead: str = ""

    @property
    def words(self) -> str:
        """The bound in words."""
        by = f" of {self.who}" if self.who else ""
        stage = f" in {self.stage}" if self.stage else ""
        return f"{self.metric}{by}{stage} {'below' if self.below else 'above'} {self.bound:g}"

    def hear(self, heard: Heard) -> tuple[Figure, bool]:
        """A reading of this figure that passes the bound, where the one before did not."""
        if not isinstance(heard, Reading) or heard.metric != self.metric or not _by(self.who, heard.component):
            return self, False
        if self.stage not in ("", heard.stage):
            return self, False
        true = heard.value < self.bound if self.below else heard.value > self.bound
        return replace(self, true=true), true and not self.true


@dataclass(frozen=True)
class AllOf:
    """When the last of the parts fires that had not fired before; once."""

    parts: tuple[Condition, ...]
    done: frozenset[int] = frozenset()

    @property
    def dead(self) -> str:
        """A part that cannot come any more."""
        return next((part.dead for index, part in enumerate(self.parts) if index not in self.done and part.dead), "")

    @property
    def words(self) -> str:
        """What is missing."""
        return " and ".join(part.words for index, part in enumerate(self.parts) if index not in self.done)

    def hear(self, heard: Heard) -> tuple[AllOf, bool]:
        """Every part hears it."""
        answers = [part.hear(heard) for part in self.parts]
        done = self.done | {index for index, (_, fires) in enumerate(answers) if fires}
        complete = len(done) == len(self.parts) and done != self.done
        return AllOf(tuple(part for part, _ in answers), done), complete


@dataclass(frozen=True)
class AnyOf:
    """Whenever a part fires."""

    parts: tuple[Condition, ...]

    @property
    def dead(self) -> str:
        """Only when no part is left."""
        return "; ".join(part.dead for part in self.parts) if all(part.dead for part in self.parts) else ""

    @property
    def words(self) -> str:
        """All of them."""
        return " or ".join(part.words for part in self.parts)

    def hear(self, heard: Heard) -> tuple[AnyOf, bool]:
        """Every part hears it."""
        answers = [part.hear(heard) for part in self.parts]
        return AnyOf(tuple(part for part, _ in answers)), any(fires for _, fires in answers)


@dataclass(frozen=True)
class After:
    """`then`, which hears nothing until `first` has fired."""

    first: Condition
    then: Condition
    opened: bool = False

    @property
    def dead(self) -> str:
        """Of the one that is waited for."""
        return self.then.dead if self.opened else self.first.dead

    @property
    def words(self) -> str:
        """The one that is waited for."""
        return self.then.words if self.opened else f"{self.first.words}, then {self.then.words}"

    def hear(self, heard: Heard) -> tuple[After, bool]:
        """The one whose turn it is hears it; never both the same."""
        if self.opened:
            then, fires = self.then.hear(heard)
            return replace(self, then=then), fires
        first, fires = self.first.hear(heard)
        return replace(self, first=first, opened=fires), False


@dataclass(frozen=True)
class Every:
    """Each `n`th firing of `of`; with `only` set, the first of them alone (once)."""

    n: int
    of: Condition
    only: bool = False
    count: int = 0

    @property
    def dead(self) -> str:
        """Of the inner one; or that it has been."""
        return "it has fired" if self.only and self.count >= self.n else self.of.dead

    @property
    def words(self) -> str:
        """What it counts."""
        return self.of.words if self.n == 1 else f"time {self.n} of {self.of.words}"

    def hear(self, heard: Heard) -> tuple[Every, bool]:
        """Count."""
        of, fires = self.of.hear(heard)
        count = self.count + fires
        due = fires and count % self.n == 0 and not (self.only and count > self.n)
        return replace(self, of=of, count=count), due


@dataclass(frozen=True)
class Fire:
    """Now, or `after_s` seconds after it was heard."""

    after_s: float


@dataclass(frozen=True)
class Wait:
    """Not now."""


@dataclass(frozen=True)
class Expired:
    """It can no longer fire; `reason` is one clause. The run is invalid, it is not a run in which nothing happened."""

    reason: str


Decision = Fire | Wait | Expired


@dataclass(frozen=True)
class Trigger:
    """The outermost condition: it fires once, or, when it `repeats`, each time; it expires only if it never fired."""

    condition: Condition
    after_s: float = 0.0
    repeats: bool = False
    fired: int = 0
    expired: bool = False

    @property
    def over(self) -> bool:
        """Whether it will never fire again."""
        return self.expired or (self.fired > 0 and not self.repeats)

    def hear(self, heard: Heard) -> tuple[Trigger, Decision]:
        """What this means. A trigger that is over only waits."""
        if self.over:
            return self, Wait()
        condition, fires = self.condition.hear(heard)
        if fires:
            return replace(self, condition=condition, fired=self.fired + 1), Fire(self.after_s)
        if condition.dead and not self.fired:
            return replace(self, condition=condition, expired=True), Expired(condition.dead)
        return replace(self, condition=condition), Wait()

    def end(self) -> Decision:
        """What the end of the job means: nothing to a trigger that has fired or expired, the end to any other."""
        if self.fired or self.expired:
            return Wait()
        return Expired(f"the job ended before {self.condition.words} was announced")


def from_plan(data: dict[str, Any]) -> Trigger:
    """The trigger of a plan's fault."""
    return Trigger(condition(data), float(data.get("after_s", 0.0)), repeats="every" in data)


def condition(data: dict[str, Any]) -> Condition:
    """A condition from its words in a plan. Raises KeyError for words that are none."""
    if "all" in data:
        return AllOf(tuple(condition(part) for part in data["all"]))
    if "any" in data:
        return AnyOf(tuple(condition(part) for part in data["any"]))
    if "then" in data:
        return After(condition(data["after"]), condition(data["then"]))
    if "once" in data:
        return Every(1, condition(data["once"]), only=True)
    if "every" in data:
        return Every(int(data["every"]), condition(data["of"]))
    who = str(data.get("who", ""))
    if "metric" in data:
        below = "below" in data
        return Figure(data["metric"], float(data["below" if below else "above"]), below, data.get("stage", ""), who)
    step = data.get("step")
    return Point(data["stage"], data["when"], None if step is None else int(step), who, int(data.get("occurrence", 0)))


def leaves(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The points and figures that a plan's trigger or ending is made of."""
    inner = (data[key] for key in ("then", "after", "once", "of", "event") if key in data)
    parts = [*data.get("all", ()), *data.get("any", ()), *inner]
    if not parts:
        yield data
    for part in parts:
        yield from leaves(part)


def waits_for_figures(data: dict[str, Any]) -> bool:
    """Whether somebody must read figures for it."""
    return any("metric" in leaf for leaf in leaves(data))


def waits_for_error(data: dict[str, Any]) -> bool:
    """Whether it waits for an error of the job, which a healthy job never announces."""
    return any(leaf.get("when") == "error" for leaf in leaves(data))


def ending(until: dict[str, Any], step: int) -> Condition | None:
    """What ends a fault that fired in `step`, or None where only time or the end of the run does.

    The end of a stage is its exit or its error; a later step means that it has passed, which ends the fault as well.
    """
    if "event" in until:
        return condition(until["event"])
    if until.get("when") != "exit":
        return None
    return StageEnd(until["stage"], step + int(until.get("steps_later", 0)))


@dataclass(frozen=True)
class StageEnd:
    """The stage at whose end, good or bad, a fault ends; anything later ends it too."""

    stage: str
    step: int
    dead: str = ""

    @property
    def words(self) -> str:
        """The end in words."""
        return f"end of {self.stage} in step {self.step}"

    def hear(self, heard: Heard) -> tuple[StageEnd, bool]:
        """Whether the event is that end, or comes after it."""
        if not isinstance(heard, StageEvent):
            return self, False
        here = heard.step == self.step and heard.stage == self.stage and heard.phase in ("exit", "error")
        return self, here or heard.step > self.step
