"""Many small segments into one: the same rows in a fraction of the bytes, and one file to open instead of hundreds.

Atomic without a lock: the new segment becomes visible whole, its name says what it takes the place of, and only then the
others go. A kill in between leaves both, which readers know how to take.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from storage.encoding import Effort, encode, facts, rounded
from storage.folders import Folder, open_folder
from storage.reader import each_segment, read_segment
from storage.segments import Segment, segment_name, segment_of

#: A segment holds at most this many rows, so that merging needs little memory: about 100 bytes a row.
MOST_ROWS = 1_000_000


def write_rows(folder: Folder, rows: pa.Table, writer: str, numbers: range, generation: int, effort: Effort) -> Segment:
    """Make one segment of rows that are `rounded` visible. Raises OSError, and then nothing is."""
    data = encode(rows, effort)
    crc = zlib.crc32(data)
    name = segment_name(writer, numbers[0], numbers[-1], generation, crc)
    folder.write(name, data)
    return Segment(writer, numbers[0], numbers[-1], generation, crc, name)


def merge(folder: Folder, segments: Sequence[Segment], schema: pa.Schema, effort: Effort) -> Segment:
    """One segment in place of neighbouring ones of a writer, which no longer count and may be removed.

    Raises SegmentError or OSError: nothing has changed then.
    """
    rows = rounded(pa.concat_tables([read_segment(folder, segment.name, schema) for segment in segments]))
    numbers = range(segments[0].first, segments[-1].last + 1)
    generation = 1 + max(segment.generation for segment in segments)
    return write_rows(folder, rows, segments[0].writer, numbers, generation, effort)


def compact_table(where: Folder | Path | str, schema: pa.Schema) -> list[str]:
    """Merge what each writer left in a table that nobody writes to, as small as it goes, and remove what no longer counts.

    Damaged and foreign files stay, so that they go on being named: one sentence for each is returned. Done again it changes
    nothing. Raises OSError where there is no room; all rows are still there then.
    """
    folder = open_folder(where)
    folder.remove_unfinished()
    found, problems = each_segment(folder, lambda segment, data: (segment, facts(data, schema)[1]))
    for group in _groups(found):
        if len(group) > 1:
            merge(folder, group, schema, Effort.KEPT)
        else:
            _repack(folder, group[0], schema)
    _remove_replaced(folder)
    return problems


def _repack(folder: Folder, segment: Segment, schema: pa.Schema) -> None:
    """Encode a segment anew if that spares anything."""
    smaller = encode(rounded(read_segment(folder, segment.name, schema)), Effort.KEPT)
    if len(smaller) < len(folder.read(segment.name)):
        merge(folder, [segment], schema, Effort.KEPT)


def _groups(found: Sequence[tuple[Segment, int]]) -> Iterator[list[Segment]]:
    """Neighbours of one writer, up to `MOST_ROWS` rows together."""
    group: list[Segment] = []
    total = 0
    for segment, rows in sorted(found):
        joins = group and segment.writer == group[-1].writer and segment.first == group[-1].last + 1
        if group and not (joins and total + rows <= MOST_ROWS):
            yield group
            group, total = [], 0
        group.append(segment)
        total += rows
    if group:
        yield group


def _remove_replaced(folder: Folder) -> None:
    segments = [segment for segment in map(segment_of, folder.names()) if segment]
    merged = [segment for segment in segments if segment.generation]
    for segment in segments:
        if any(other.replaces(segment) for other in merged):
            folder.remove(segment.name)
