"""What every part of a hand-written scenario is made of: frozen, with no key that it does not know, refusing in sentences."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from injection import magnitude
from storage.records import RANKED_ROLES, Role


def refuse(problem: str, key: str = "") -> PydanticCustomError:
    """A refusal of the part at hand, or of `key` in it (dots go deeper); `marks` adds file and line."""
    return PydanticCustomError("refused", "{problem}", {"problem": problem, "key": key})


def problem_of(error: dict[str, Any]) -> tuple[tuple[str | int, ...], str]:
    """Where one of pydantic's errors is, and what is wrong there, as one clause."""
    context = error.get("ctx", {})
    extra = tuple(int(part) if part.isdigit() else part for part in str(context.get("key", "")).split(".") if part)
    where = (*(part for part in error["loc"] if not str(part).startswith("<")), *extra)
    if error["type"] in ("enum", "literal_error"):
        return where, f"{error['input']!r} is not allowed; allowed: {context['expected'].replace(' or ', ', ')}"
    if error["type"] == "missing":
        return where, "required, but missing"
    if error["type"] == "refused":
        return where, str(context["problem"])
    return where, f"{error['msg'][0].lower()}{error['msg'][1:]} (got {error['input']!r})"


class Strict(BaseModel):
    """A frozen part of a scenario that refuses keys it does not know, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        allowed = ", ".join(cls.known())
        if not isinstance(data, dict):
            raise refuse(f"must be a mapping with keys {allowed} (got {data!r})")
        for key in data:
            if key not in cls.known():
                raise refuse(f"unknown key; allowed: {allowed}", str(key))
        return data

    @classmethod
    def known(cls) -> tuple[str, ...]:
        """The keys as they are written."""
        return tuple(field.alias or name for name, field in cls.model_fields.items())


def _rank(value: Any) -> int | str:
    if value == "draw" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return "draw" if value == "draw" else int(value)
    raise refuse(f"must be a whole number from 0, or 'draw' (got {value!r})")


def _step(value: Any) -> int | tuple[int, int]:
    whole = [value] if not isinstance(value, list) else value
    if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in whole):
        raise refuse(f"must be a whole number from 0, or a range [low, high] of them (got {value!r})")
    if not isinstance(value, list):
        return int(value)
    if len(value) != 2 or value[0] > value[1]:
        raise refuse(f"a range is [low, high] with low <= high (got {value!r})")
    return value[0], value[1]


def _magnitude(value: Any) -> float | str:
    if isinstance(value, str):
        try:
            magnitude.parse(value)
        except ValueError as error:
            raise refuse(str(error)) from error
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise refuse(f"must be {magnitude.FORMS}, not negative (got {value!r})")
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
            raise refuse(f"rank: required for role {self.role}: a whole number from 0, or 'draw'")
        if self.role not in RANKED_ROLES and self.rank is not None:
            raise refuse(f"there is only one {self.role}, it has no rank", "rank")
        return self
