"""How a scenario says when a fault begins and ends: a point of the job, a figure it told, or several of them together.

- `{step: [5, 8], stage: rollout, when: enter, role: rollout, rank: draw, occurrence: 2, after_s: 1.5}`
- `{stage: train, when: error}`: a point of any step, an event
- `{stage: rollout, when: +2.5}`: 2.5 s after it was entered
- `{metric: samples_per_s, role: controller, below: 40}`
- `{all: [T, T]}`, `{any: [T, T]}`, `{after: T, then: T}`, `{once: T}`, `{every: 3, of: T}`
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from injection.strict import Rank, Seconds, StepDraw, Strict, refuse
from storage.records import RANKED_ROLES, Role, Stage

WHENS = ("enter", "exit", "error")


class Delayed(Strict):
    """A trigger; as the outermost one it may act `after_s` later."""

    after_s: Seconds = 0.0


class Whose(Delayed):
    """Who says it: everybody, a role, or one of a role."""

    role: Role | None = None
    rank: Rank = None

    @model_validator(mode="after")
    def _rank_fits(self) -> Whose:
        if self.rank is not None and self.role not in RANKED_ROLES:
            raise refuse(f"belongs to a role that has ranks: {', '.join(RANKED_ROLES)}", "rank")
        return self


class PointSpec(Whose):
    """A stage's enter, exit or error: in a step, in one drawn from a range, or (without `step`) in any.

    Equal ranges are one draw; `steps_later` puts a fault so many steps behind the others of its range. `occurrence` counts
    from 1: the so manyth announcement that fits.
    """

    step: StepDraw = None
    steps_later: Annotated[int, Field(ge=0)] = 0
    stage: Stage
    when: Any
    occurrence: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _seconds_later(cls, data: Any) -> Any:
        """`when: +2.5` is two and a half seconds after enter."""
        if not isinstance(data, dict) or "when" not in data:
            return data
        when = data["when"]
        # YAML reads +2.5 as a number, and the sign is lost: any number here is meant as seconds.
        number = isinstance(when, int | float) and not isinstance(when, bool)
        if number or (isinstance(when, str) and when.startswith("+")):
            if "after_s" in data:
                raise refuse("says the seconds already", "when")
            return {**data, "when": "enter", "after_s": when if number else _number(when[1:])}
        if when not in WHENS:
            raise refuse(f"{when!r} is not allowed; allowed: 'enter', 'exit', 'error', +<seconds after enter>", "when")
        return data

    @model_validator(mode="after")
    def _later_than_what(self) -> PointSpec:
        if self.steps_later and self.step is None:
            raise refuse("there is no step that it could be later than", "steps_later")
        return self


class FigureSpec(Whose):
    """A figure that the job told about itself (docs/metrics.md) has come `below` or `above` a bound."""

    metric: Annotated[str, Field(min_length=1)]
    stage: Stage | None = None
    below: float | None = None
    above: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> FigureSpec:
        if (self.below is None) == (self.above is None):
            raise refuse("must have either below or above")
        return self


class AllSpec(Delayed):
    """When the last of them has come."""

    parts: Annotated[tuple[TriggerSpec, ...], Field(alias="all", min_length=1), AfterValidator(lambda v: _undelayed(*v))]


class AnySpec(Delayed):
    """Whenever one of them comes."""

    parts: Annotated[tuple[TriggerSpec, ...], Field(alias="any", min_length=1), AfterValidator(lambda v: _undelayed(*v))]


class AfterSpec(Delayed):
    """`then`, as it comes after `after` has come."""

    after: Annotated[TriggerSpec, AfterValidator(lambda v: _undelayed(v)[0])]
    then: Annotated[TriggerSpec, AfterValidator(lambda v: _undelayed(v)[0])]


class OnceSpec(Delayed):
    """The first time only."""

    once: Annotated[TriggerSpec, AfterValidator(lambda v: _undelayed(v)[0])]


class EverySpec(Delayed):
    """Every so manyth time. As the outermost trigger it makes the fault come again and again."""

    every: Annotated[int, Field(ge=1)]
    of: Annotated[TriggerSpec, AfterValidator(lambda v: _undelayed(v)[0])]


FORMS = {"metric": FigureSpec, "all": AllSpec, "any": AnySpec, "then": AfterSpec, "after": AfterSpec, "once": OnceSpec}
FORMS |= {"every": EverySpec, "of": EverySpec}


def _form(data: Any) -> str:
    """Which form is meant, by the key that only it has; a point otherwise. The mark keeps it out of the names of keys."""
    given = data if isinstance(data, dict) else {}
    return next((f"<{kind.__name__}>" for key, kind in FORMS.items() if key in given), f"<{PointSpec.__name__}>")


TriggerSpec = Annotated[
    Annotated[PointSpec, Tag("<PointSpec>")]
    | Annotated[FigureSpec, Tag("<FigureSpec>")]
    | Annotated[AllSpec, Tag("<AllSpec>")]
    | Annotated[AnySpec, Tag("<AnySpec>")]
    | Annotated[AfterSpec, Tag("<AfterSpec>")]
    | Annotated[OnceSpec, Tag("<OnceSpec>")]
    | Annotated[EverySpec, Tag("<EverySpec>")],
    Discriminator(_form),
]
for _kind in (AllSpec, AnySpec, AfterSpec, OnceSpec, EverySpec):
    _kind.model_rebuild()


def _undelayed(*parts: Any) -> tuple[Any, ...]:
    if any(part.after_s for part in parts):
        raise refuse("seconds belong to the outermost trigger")
    return parts


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()  # a sentence over a time-out, checked like any after_s


class UntilSpec(Strict):
    """How long: to the end of the run, to a stage's exit (`steps_later` than it fired), for `after_s`, or to an `event`."""

    when: Literal["end", "exit"] | None = None
    stage: Stage | None = None
    steps_later: Annotated[int, Field(ge=0)] = 0
    after_s: Seconds = None
    event: Annotated[TriggerSpec, AfterValidator(lambda v: _undelayed(v)[0])] | None = None

    @model_validator(mode="after")
    def _one(self) -> UntilSpec:
        if sum(one is not None for one in (self.when, self.after_s, self.event)) != 1:
            raise refuse("must have one of when (end or exit), after_s and event")
        if (self.when == "exit") != (self.stage is not None):
            raise refuse("stage belongs to 'when: exit', and is required there")
        return self


def stages_of(spec: Any) -> set[Stage]:
    """Every stage that a trigger or an ending names."""
    inner = getattr(spec, "parts", None) or [getattr(spec, name, None) for name in ("after", "then", "once", "of", "event")]
    found = {spec.stage} if getattr(spec, "stage", None) else set()
    return found.union(*(stages_of(part) for part in inner if part is not None))
