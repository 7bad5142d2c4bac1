"""Parse a job log: one row per line that has a time, with the lines that belong to it (tracebacks, strays) attached."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from storage.records import Stage

#: Text beyond this is cut from a message; the raw log keeps it all.
MAX_MESSAGE = 65536
#: A longer line is read in pieces, so that one without end does not fill the memory.
_PIECE_BYTES = 1 << 20
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
    """One row. ``line`` counts from 1; ``wall_s`` is None for text before the first line with a time.

    ``offset`` and ``size`` say which bytes of the raw log it is: the rows of a log hold each of its bytes once.
    """

    line: int
    wall_s: float | None
    level: str
    message: str
    offset: int
    size: int
    more: list[str] = field(default_factory=list)
    told: int = 0

    def __post_init__(self) -> None:
        self.message = self.message[:MAX_MESSAGE]
        self.told = len(self.message)

    def attach(self, text: str, size: int) -> None:
        """Add a further line of ``size`` raw bytes, as long as the message stays under `MAX_MESSAGE`."""
        if self.told + len(text) < MAX_MESSAGE:
            self.more.append(text)
        elif self.more[-1:] != [_CUT]:
            self.more.append(_CUT)
        self.told += len(text) + 1
        self.size += size

    @property
    def text(self) -> str:
        """Message and attached lines."""
        return "\n".join([self.message, *self.more])


def parse_log(file: BinaryIO) -> Iterator[LogLine]:
    """Rows of a log in order.

    A traceback after a line that is no warning or error was not logged but printed by a dying process: it gets a row of its
    own, without level, at the time of the line before it.
    """
    current: LogLine | None = None
    for number, offset, raw in raw_lines(file):
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        head = _HEAD.fullmatch(line)
        if head:
            if current:
                yield current
            current = LogLine(number, wall_seconds(head[1]), head[2], head[4], offset, len(raw))
        elif current is None or (line == _TRACEBACK and current.level in ("DEBUG", "INFO")):
            if current:
                yield current
            current = LogLine(number, current.wall_s if current else None, "", line, offset, len(raw))
        else:
            current.attach(line, len(raw))
    if current:
        yield current


class ErrorTail:
    """The latest error of a log that is being written; each look reads what was added since the one before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._from = 0
        self.error: LogLine | None = None

    def look(self) -> None:
        """Read on from the last row, to which lines may have been added."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._from)
            offset = 0
            for row in parse_log(file):
                offset = row.offset
                if row.level in ("ERROR", "CRITICAL") or (not row.level and row.message == _TRACEBACK):
                    self.error = row
            self._from += offset


def raw_lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Line number, offset and bytes with their line end. A line over a mebibyte comes in pieces of one number."""
    number, offset = 1, 0
    while raw := file.readline(_PIECE_BYTES):
        yield number, offset, raw
        offset += len(raw)
        number += raw.endswith(b"\n")


def wall_seconds(stamp: str) -> float | None:
    """Seconds since the epoch of ``YYYY-MM-DD HH:MM:SS.mmm`` in UTC; None for an instant that is none (month 13)."""
    try:
        return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def log_columns(component: str, rows: Sequence[LogLine]) -> dict[str, list[object]]:
    """The rows of one log as columns of the logs table."""
    return {
        "wall_s": [row.wall_s for row in rows],
        "component": [component] * len(rows),
        "line": [row.line for row in rows],
        "level": [row.level for row in rows],
        "message": [row.text for row in rows],
        "request_id": [request_of(row.text) for row in rows],
        "step": [int(_first(_STEP, row.message) or -1) for row in rows],
        "stage": [stage_of(row.message) for row in rows],
        "offset": [row.offset for row in rows],
        "size": [row.size for row in rows],
    }


def request_of(text: str) -> str:
    """The request a row belongs to, or an empty text: a row ends with its own id, after any that it quotes."""
    found = requests_in(text)
    return found[-1] if found else ""


def requests_in(text: str) -> list[str]:
    """Every request id that a text tells, in order."""
    return [match[1] for match in _REQUEST.finditer(text)]


def stage_of(message: str) -> str:
    """The stage a line tells, or an empty text."""
    for pattern, stage in _STAGE_WORDS:
        match = pattern.search(message)
        if match:
            return str(stage or match[1])
    return ""


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
