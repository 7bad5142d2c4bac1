"""Logs: every process's lines of a run, merged in order of time, filtered, and as they were written, byte for byte.

Read from the raw logs, so that a run that is under way can be followed too; memory does not grow with them.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.catalogue import open_run
from storage.layout import run_paths
from telemetry.loglines import LogLine, log_columns, parse_log, requests_in

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True)
class LogFilter:
    """What is wanted; empty = all. Times are wall clock seconds, both ends included. ``components`` are names or roles.

    A line without a level counts as ERROR where a traceback begins with it, and as INFO otherwise.
    """

    components: tuple[str, ...] = ()
    request_id: str = ""
    from_s: float = -math.inf
    to_s: float = math.inf
    level: str = LEVELS[0]
    pattern: re.Pattern[str] | None = None

    def wants_file(self, component: str) -> bool:
        """Whether any line of this component may be wanted."""
        return not self.components or bool(_names_of(component) & set(self.components))

    def wants(self, row: LogLine, at_s: float) -> bool:
        """Whether the row, which counts as of ``at_s``, is wanted."""
        level = row.level or ("ERROR" if row.message.startswith("Traceback") else "INFO")
        return (
            self.from_s <= at_s <= self.to_s
            and LEVELS.index(level) >= LEVELS.index(self.level)
            and (not self.request_id or self.request_id in requests_in(row.text))
            and (self.pattern is None or bool(self.pattern.search(row.text)))
        )


@dataclass(frozen=True)
class Line:
    """One row of one component's log."""

    component: str
    path: Path
    row: LogLine

    def raw(self) -> bytes:
        """Its bytes, as they lie in the log."""
        with self.path.open("rb") as file:
            file.seek(self.row.offset)
            return file.read(self.row.size)

    def told(self) -> dict[str, Any]:
        """Its columns as in the logs table."""
        return {name: column[0] for name, column in log_columns(self.component, [self.row]).items()}


def log_lines(run_id: str, wanted: LogFilter) -> Iterator[Line]:
    """The wanted rows of every log of a run in order of time. ValueError names a component that has no log.

    Rows of one log keep their order, also where its clock went back; text without a time counts as of the line before it.
    """
    open_run(run_id)
    logs = sorted(path for path in run_paths(run_id).logs.glob("*.log") if path.is_file() and not path.is_symlink())
    chosen = [path for path in logs if wanted.wants_file(path.stem)]
    strange = [name for name in wanted.components if not any(name in _names_of(path.stem) for path in logs)]
    if strange:
        names = ", ".join(path.stem for path in logs)
        raise ValueError(f"no log of {', '.join(strange)}; there are: {names or 'none'}")
    merged = heapq.merge(*(_rows(path) for path in chosen), key=lambda timed: timed[0])
    return (line for (at_s, *_), line in merged if wanted.wants(line.row, at_s))


def _names_of(component: str) -> set[str]:
    """What it may be asked for by: its own name and its role."""
    return {component, component.rstrip("0123456789")}


def _rows(path: Path) -> Iterator[tuple[tuple[float, str, int], Line]]:
    at_s = -math.inf
    with path.open("rb") as file:
        for row in parse_log(file):
            at_s = max(at_s, -math.inf if row.wall_s is None else row.wall_s)
            yield (at_s, path.stem, row.offset), Line(path.stem, path, row)


def instant(text: str, run_id: str) -> float:
    """Wall clock seconds of ``+12.5`` (after the run began) or of a UTC time as the logs tell it. ValueError if neither."""
    after = re.fullmatch(r"\+(\d+(?:\.\d*)?)", text)
    if after:
        started_s = open_run(run_id).started_s
        if started_s is None:
            raise ValueError(f"{run_id} does not say when it began; give a time instead of {text!r}")
        return started_s + float(after[1])
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        known = "as in the logs (2026-03-01 10:00:00.250, UTC), or +12.5 after the run began"
        raise ValueError(f"not a time: {text!r}; {known}") from None
    return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()


def compiled(text: str | None) -> re.Pattern[str] | None:
    """A pattern to search for. ValueError says what is wrong with it."""
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise ValueError(f"not a regular expression: {text!r}: {error}") from error
