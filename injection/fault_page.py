"""docs/faults.md, from the types of the fault kinds: ``python -m injection.fault_page`` writes it, a test compares."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from injection.capability import BACKENDS, LACKS, PLACES, REFUSALS
from injection.registry import FAULTS, TARGETS
from storage.records import FaultKind

PAGE = Path(__file__).resolve().parent.parent / "docs" / "faults.md"
NOTES = Path(__file__).with_suffix(".yaml")
HEAD = """# Fault kinds

Written from the code by `make fault-page`; what is wrong here is mended there. A number may be written as a sentence over
the job's time-outs where that makes sense (`1.3 x timeout(stop_job)`, `shard_bytes / (1.5 x timeout(update_weights))`).

Every kind is undone from its journal record alone: by the injector; by the watchdog when the injector is killed or silent; by
the next start or `faultline recover` when both were killed. *When killed* says what is there until then. Trigger and duration
are those of every fault: `trigger: {step, stage, when}`, `until: {when: end}` by default.
"""
LIMITS = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}


def page() -> str:
    """The whole page."""
    notes = yaml.safe_load(NOTES.read_text())
    return "\n".join([HEAD, *(line for kind in FaultKind for line in section(kind, notes[kind])), ""])


def section(kind: FaultKind, notes: dict[str, Any]) -> Iterator[str]:
    """One kind: what it is, parameters, where and how, what it needs, what it leaves, an example."""
    fault = FAULTS[kind]
    module = inspect.cleandoc(sys.modules[fault.__module__].__doc__ or "")
    yield f"## {kind}\n"
    yield f"{module}\n"
    known = fields(fault.parameters)
    if known:
        types = get_type_hints(fault.parameters, include_extras=True)
        yield f"{inspect.cleandoc(fault.parameters.__doc__ or '')}\n"
        yield "| parameter | values | default |\n| --- | --- | --- |"
        yield from (f"| `{one.name}` | {values(types[one.name])} | {default(one)} |" for one in known)
        yield ""
    yield f"- Acts on: {', '.join(TARGETS[kind])}"
    yield from (f"- In the {place}: {backends(kind, place)}" for place in PLACES)
    yield f"- Needs: {notes['needs']}"
    yield f"- When killed: {notes['deaths']}"
    yield f"- With others: {notes['composition']}\n"
    example = yaml.safe_dump([notes["example"]], sort_keys=False, width=120, default_flow_style=None)
    yield f"```yaml\nfaults:\n{example}```\n"


def values(type_: Any) -> str:
    """The values of a parameter, in words."""
    if get_origin(type_) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(type_))
    if get_args(type_)[:1] == (str,):
        return "a name"
    metadata = [bound for extra in getattr(type_, "__metadata__", ()) for bound in extra.metadata]
    limits = [f"{word} {getattr(bound, name):g}" for bound in metadata for name, word in LIMITS.items() if hasattr(bound, name)]
    whole = get_args(type_)[:1] == (int,)
    return " ".join(["whole number" if whole else "number", *limits])


def default(parameter: Field[Any]) -> str:
    """What it is when it is not given."""
    return "required" if parameter.default is MISSING else f"`{parameter.default}`" if parameter.default != "" else "none"


def backends(kind: FaultKind, place: str) -> str:
    """By what means it is done in a place, and what each means lacks; or why it is not."""
    if (kind, place) not in BACKENDS:
        return f"refused: {REFUSALS[kind, place]}"
    told = []
    for backend in BACKENDS[kind, place]:
        lacks = [f"`{name}` only {only!r}: {why}" for name, (only, why) in LACKS.get((kind, backend), {}).items()]
        told.append(f"{backend} ({'; '.join(lacks)})" if lacks else backend)
    return ", else ".join(told)


if __name__ == "__main__":
    PAGE.write_text(page())
