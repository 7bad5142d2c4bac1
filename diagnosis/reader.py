"""The metered window through which a diagnoser sees one tier of one case.

The meter counts effort: distinct files opened, lines and bytes served, calls made. It refuses whatever lies outside the tier.
A diagnoser is held to this window by the sandbox, not by this class: inside one Python process nothing can be forbidden.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

#: ``YYYY-MM-DD HH:MM:SS.mmm LEVEL component: message``: the head of a log record; other lines continue the one above.
HEAD = re.compile(
    r"^(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) "
    r"(?P<owner>[\w-]+)(?:\.[\w.]+)?: (?P<text>.*)"
)


class OutsideTierError(PermissionError):
    """A path that is not a file of this tier was asked for."""


@dataclass(frozen=True)
class LogRecord:
    """One log record: its head line and the lines (a traceback) that continue it.

    ``time`` is the case clock and sorts as text; ``line`` counts from 1.
    """

    path: str
    line: int
    time: str
    level: str
    owner: str
    text: str

    @property
    def logged_as_error(self) -> bool:
        """Of level ERROR or above."""
        return self.level in ("ERROR", "CRITICAL")

    @property
    def is_error(self) -> bool:
        """Logged as an error, or carrying a traceback that nobody logged as one."""
        return self.logged_as_error or "Traceback (most recent call last)" in self.text


@dataclass
class Meter:
    """Effort spent so far. ``lines`` and ``bytes`` count every time they are served, also when served again."""

    calls: int = 0
    lines: int = 0
    bytes: int = 0
    opened: set[str] = field(default_factory=set)

    def to_dict(self) -> dict[str, int]:
        """Counts as plain JSON types."""
        return {"calls": self.calls, "files": len(self.opened), "lines": self.lines, "bytes": self.bytes}


class EvidenceReader:
    """Reads the files of one tier of the case in ``root``: ``T0`` sees ``t0/``, ``T1`` sees ``t0/`` and ``t1/``."""

    def __init__(self, root: Path, tier: str) -> None:
        self.root = root.resolve()
        self.tier = tier
        self.meter = Meter()
        self._files = self._find_files()

    def list_files(self) -> list[str]:
        """Paths of the tier's logs, sorted."""
        self.meter.calls += 1
        return list(self._files)

    def read(self, path: str, start: int = 1, n: int | None = None) -> list[str]:
        """Lines ``start`` (from 1) to ``start + n - 1`` of a file, without line ends; all that follow when ``n`` is None."""
        if start < 1 or (n is not None and n < 0):
            raise ValueError(f"start counts from 1 and n from 0, got start={start}, n={n}")
        stop = None if n is None else start - 1 + n
        return self._serve(list(islice(self._lines(path), start - 1, stop)))

    def tail(self, path: str, n: int) -> list[str]:
        """The last ``n`` lines of a file."""
        return self._serve(list(self._lines(path))[-n:] if n > 0 else [])

    def grep(self, pattern: str, path: str) -> list[tuple[int, str]]:
        """(line number from 1, line) of every line that the regular expression finds; only these count as served."""
        wanted = re.compile(pattern)
        hits = [(number, line) for number, line in enumerate(self._lines(path), 1) if wanted.search(line)]
        self._serve([line for _, line in hits])
        return hits

    def records(self, path: str) -> list[LogRecord]:
        """The whole file as log records; lines before the first head belong to no record and are left out."""
        return list(_records(path, self.read(path)))

    def _find_files(self) -> tuple[str, ...]:
        manifest = json.loads((self.root / "manifest.json").read_text())
        tiers: dict[str, Any] = manifest["tiers"]
        if self.tier not in tiers:
            raise OutsideTierError(f"no tier {self.tier!r}; this case has {', '.join(sorted(tiers))}")
        return tuple(sorted(tiers[self.tier]))

    def _lines(self, path: str) -> Iterator[str]:
        self.meter.calls += 1
        file = self.root / path
        if path not in self._files or file.is_symlink() or file.resolve() != file:
            raise OutsideTierError(f"{path!r} is not a file of tier {self.tier}")
        self.meter.opened.add(path)
        with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in lines:
                yield line.rstrip("\n")

    def _serve(self, lines: list[str]) -> list[str]:
        self.meter.lines += len(lines)
        self.meter.bytes += sum(len(line.encode()) + 1 for line in lines)
        return lines


def _records(path: str, lines: list[str]) -> Iterator[LogRecord]:
    head: dict[str, Any] = {}
    text: list[str] = []
    for number, line in enumerate(lines, 1):
        match = HEAD.match(line)
        if match:
            if head:
                yield LogRecord(path=path, text="\n".join(text), **head)
            head = {"line": number, "time": match["time"], "level": match["level"], "owner": match["owner"]}
            text = [match["text"]]
        else:
            text.append(line)
    if head:
        yield LogRecord(path=path, text="\n".join(text), **head)
