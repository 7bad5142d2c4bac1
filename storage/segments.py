"""Names of segments, and which of them count: a merged segment takes the place of those it was made from.

``part-<writer>-<n>-<crc32>.parquet`` is what a writer flushed as its number n.
``part-<writer>-<first>-<last>-<generation>-<crc32>.parquet`` holds the rows of its numbers first to last, made from segments of
a lower generation. Both may lie side by side for a moment, or for good after a kill between making the one and removing the
others: the name alone says that the others no longer count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

_NAME = re.compile(
    r"part-(?P<writer>[A-Za-z0-9]{1,64})-(?P<first>\d{1,12})(?:-(?P<last>\d{1,12})-(?P<generation>\d{1,6}))?-(?P<crc>[0-9a-f]{8})\.parquet"
)


@dataclass(frozen=True, order=True)
class Segment:
    """One file of a table by what its name tells; ``crc`` is the CRC-32 of all its bytes."""

    writer: str
    first: int
    last: int
    generation: int
    crc: int
    name: str

    def replaces(self, other: Segment) -> bool:
        """Whether all rows of ``other`` are here too."""
        inside = self.first <= other.first and other.last <= self.last
        return inside and self.writer == other.writer and self.generation > other.generation


def segment_of(name: str) -> Segment | None:
    """The segment a file name stands for, or None for a foreign name."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    first = int(match["first"])
    last = int(match["last"]) if match["last"] else first
    if last < first:
        return None
    return Segment(match["writer"], first, last, int(match["generation"] or 0), int(match["crc"], 16), name)


def segment_name(writer: str, first: int, last: int, generation: int, crc: int) -> str:
    """The file name of a segment."""
    merged = f"-{last:06d}-{generation}" if generation else ""
    return f"part-{writer}-{first:06d}{merged}-{crc:08x}.parquet"


def gaps(segments: Iterable[Segment]) -> list[str]:
    """One sentence for each run of numbers that a writer must have used and of which nothing is there: lost files."""
    told = []
    for writer, mine in groupby(sorted(segments), key=lambda one: one.writer):
        expected = 0
        for one in mine:
            if one.first > expected:
                told.append(f"segment(s) {expected} to {one.first - 1} of writer {writer} are missing")
            expected = max(expected, one.last + 1)
    return told
