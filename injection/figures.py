"""The figures that the job tells about itself, read off its own files while it writes them, for triggers that wait for one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from injection.trigger import Reading

#: How long a figure may lie there unread, s.
BEAT_S = 0.05


class Figures:
    """Follows every `<component>.jsonl` of a folder (docs/architecture.md), also those that appear later."""

    def __init__(self, folder: Path, tell: Callable[[Reading], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._read: dict[Path, int] = {}

    def follow(self, over: threading.Event) -> None:
        """Tell every figure once, in the order of each file, until it is over."""
        while not over.wait(BEAT_S):
            self.look()

    def look(self) -> None:
        """Tell what is new."""
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in self._new_lines(path):
                reading = parse(line, path.stem)
                if reading is not None:
                    self._tell(reading)

    def _new_lines(self, path: Path) -> Iterator[bytes]:
        """Whole lines; one that is still being written is left for the next look."""
        begin = self._read.get(path, 0)
        with path.open("rb") as file:
            file.seek(begin)
            whole = file.read().rpartition(b"\n")[0]
        if whole:
            self._read[path] = begin + len(whole) + 1
            yield from whole.split(b"\n")


def parse(line: bytes, component: str) -> Reading | None:
    """A line as a figure, of the component that it names or else of the file's; None for what is no figure."""
    try:
        told = json.loads(line)
        about = str(told.get("component", component))
        return Reading(about, int(told["step"]), str(told["stage"]), str(told["metric"]), float(told["value"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
