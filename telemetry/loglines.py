"""Parse a job log: one row per line that has a time, with the lines that belong to it (tracebacks, strays) attached."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from storage.records import Stage

#: Text beyond this is cut from a message; the raw log keeps it all.
MAX_MESSAGE = 65536
_CUT = " ... (cut)"

_HEAD = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (DEBUG|INFO|WARNING|ERROR|CRITICAL) ([A-Za-z0-9-]+): ?(.*)")
_REQUEST = re.compile(r"\brequest_id[=:] ?([0-9A-Za-z-]{4,64})")
_STEP = re.compile(r"\b(?:step|global_step)[:=] ?(\d{1,9})\b")
_TRACEBACK = "Traceback (most recent call last):"

#: How the job's lines name a stage. The first that fits counts; a stage's own name in `stage=...` always does.
_STAGE_WORDS: tuple[tuple[re.Pattern[str], Stage | None], ...] = (
    (re.compile(r"\bstage[=:] ?(" + "|".join(Stage) + r")\b"), None),
    (re.compile(r"\bupdate weights?\b|\bweights_update\b"), Stage.WEIGHTS_UPDATE),
    (re.compile(r"\b(?:start to rollout\b|rollout succeeded\b|notify_rollout_\w+_event\b)"), Stage.ROLLOUT),
    (re.compile(r"\bcompute_logprobs_with_distributed\b|\bcompute ref logprobs\b"), Stage.REFERENCE),
    (re.compile(r"\b(?:start to train\b|train succeeded\b|notify_train_\w+_event\b)"), Stage.TRAIN),
    (re.compile(r"latest_checkpoint|periodic_checkpoint|\bcheckpoint recover\b"), Stage.CHECKPOINT),
)


@dataclass
class LogLine:
    """One row. ``line`` counts from 1; ``wall_s`` is None for text before the first line with a time."""

    line: int
    wall_s: float | None
    level: str
    message: str
    more: list[str] = field(default_factory=list)
    size: int = 0

    def attach(self, text: str) -> None:
        """Add a further line, as long as the message stays under `MAX_MESSAGE`."""
        if self.size + len(text) < MAX_MESSAGE:
            self.more.append(text)
        elif self.more[-1:] != [_CUT]:
            self.more.append(_CUT)
        self.size += len(text) + 1

    @property
    def text(self) -> str:
        """Message and attached lines."""
        return "\n".join([self.message, *self.more])


def parse_log(lines: Iterable[str]) -> Iterator[LogLine]:
    """Rows of a log in order.

    A traceback after a line that is no warning or error was not logged but printed by a dying process: it gets a row of its
    own, without level, at the time of the line before it.
    """
    current: LogLine | None = None
    for number, raw in enumerate(lines, start=1):
        line = raw.rstrip("\r\n")
        head = _HEAD.fullmatch(line)
        if head:
            if current:
                yield current
            current = LogLine(number, wall_seconds(head[1]), head[2], head[4][:MAX_MESSAGE], size=len(head[4]))
        elif current is None or (line == _TRACEBACK and current.level in ("DEBUG", "INFO")):
            if current:
                yield current
            current = LogLine(number, current.wall_s if current else None, "", line[:MAX_MESSAGE], size=len(line))
        else:
            current.attach(line[:MAX_MESSAGE])
    if current:
        yield current


def wall_seconds(stamp: str) -> float | None:
    """Seconds since the epoch of ``YYYY-MM-DD HH:MM:SS.mmm`` in UTC; None for an instant that is none (month 13)."""
    try:
        return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def log_columns(component: str, lines: Iterable[str]) -> dict[str, list[object]]:
    """The rows of one log as columns of the logs table."""
    rows = list(parse_log(lines))
    return {
        "wall_s": [row.wall_s for row in rows],
        "component": [component] * len(rows),
        "line": [row.line for row in rows],
        "level": [row.level for row in rows],
        "message": [row.text for row in rows],
        "request_id": [_last(_REQUEST, row.text) for row in rows],
        "step": [int(_first(_STEP, row.message) or -1) for row in rows],
        "stage": [stage_of(row.message) for row in rows],
    }


def stage_of(message: str) -> str:
    """The stage a line tells, or an empty text."""
    for pattern, stage in _STAGE_WORDS:
        match = pattern.search(message)
        if match:
            return str(stage or match[1])
    return ""


def _last(pattern: re.Pattern[str], text: str) -> str:
    # A line ends with its own id; one quoted from another's answer, traceback and all, stands before it.
    found = [match[1] for match in pattern.finditer(text)]
    return found[-1] if found else ""


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
