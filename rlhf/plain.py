"""JSON from anybody, and dataclasses and arguments from its types. A mistake is a ValueError: a sentence that names the key."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from inspect import signature
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")

#: What a value of a type is called.
WANTED = {int: "wanted: a whole number", float: "wanted: a number", str: "wanted: a text", bool: "allowed: true, false"}


def from_plain(kind: type[T], data: Any, what: str, prefix: str = "") -> T:
    """A `kind` from a mapping; `what` is its name in sentences, `prefix` stands before a key of it. Raises ValueError."""
    if isinstance(data, kind):
        return data
    known = sorted(field.name for field in fields(kind))  # type: ignore[arg-type]
    if not isinstance(data, dict):
        raise ValueError(f"{what} is {data!r}; wanted: a mapping with keys {', '.join(known)}")  # noqa: TRY004 - a user's value
    if unknown := sorted(str(name) for name in data if name not in known):
        raise ValueError(f"unknown {what} key(s) {', '.join(unknown)}; known: {', '.join(known)}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, name, prefix) for name, value in data.items()})


def _value(kind: Any, value: Any, name: str, prefix: str) -> Any:
    if is_dataclass(kind):
        return from_plain(kind, value, name, f"{name} ")  # type: ignore[arg-type]
    fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{prefix}{name} is {value!r}; {WANTED[kind]}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{prefix}{name} is {value!r}; wanted: a finite number")
    return value


def parse_json(text: bytes | str) -> Any:
    """JSON from anybody. Raises ValueError for whatever is none, too deep a nesting included."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def arguments_problem(function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """Why a function does not take these arguments by name, besides the first, which is another matter; or nothing."""
    taken, hints = list(signature(function).parameters.values())[1:], get_type_hints(function)
    if strange := sorted(arguments.keys() - {one.name for one in taken}):
        return f"unknown argument(s) {', '.join(strange)}; known: {', '.join(one.name for one in taken) or 'none'}"
    for one in taken:
        if one.name not in arguments and one.default is one.empty:
            return f"{one.name} is missing"
        try:
            _value(hints[one.name], arguments.get(one.name, one.default), one.name, "")
        except ValueError as error:
            return str(error)
    return ""
