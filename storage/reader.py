"""Read a table folder: every whole segment of this schema; whatever else lies there is named and left out."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from storage.encoding import SegmentError, decode
from storage.folders import Folder, open_folder
from storage.segments import Segment, gaps, segment_of

T = TypeVar("T")

#: How often a folder is looked at anew when segments go while it is read, because a living writer merges them.
_TRIES = 10


class _GoneError(Exception):
    """A segment that was listed is there no more."""


def read_table(where: Folder | Path | str, schema: pa.Schema) -> tuple[pa.Table, list[str]]:
    """All rows of the table (a path or a URI), and one sentence for each file that was left out or is lost.

    The rows of a writer come in the order written, or, where segments were merged, each series in the order written. A folder
    that does not exist is an empty table. Hidden files are segments being written and are not looked at.
    """
    tables, problems = each_segment(where, lambda _segment, data: decode(data, schema))
    return pa.concat_tables([schema.empty_table(), *tables]), problems


def read_segment(where: Folder | Path | str, name: str, schema: pa.Schema) -> pa.Table:
    """One segment as a table of ``schema``. Raises SegmentError."""
    segment = segment_of(name)
    if segment is None:
        raise SegmentError(_FOREIGN)
    try:
        return decode(_checked(open_folder(where), segment), schema)
    except _GoneError as error:
        raise SegmentError("it is not there") from error


def each_segment(where: Folder | Path | str, use: Callable[[Segment, bytes], T]) -> tuple[list[T], list[str]]:
    """What ``use`` makes of each segment that counts and is whole, and one sentence for each file it is not.

    ``use`` is given bytes whose checksum fits, and may raise SegmentError.
    """
    folder = open_folder(where)
    for _ in range(_TRIES):
        try:
            return _once(folder, use)
        except _GoneError:
            continue
    return [], [f"{folder.name}: its segments keep vanishing while they are read"]


def _once(folder: Folder, use: Callable[[Segment, bytes], T]) -> tuple[list[T], list[str]]:
    names = folder.names()
    segments = [segment for segment in map(segment_of, names) if segment]
    known = {segment.name for segment in segments}
    problems = [f"{folder.name}/{name}: {_FOREIGN}" for name in names if name not in known]
    problems += [f"{folder.name}: {sentence}" for sentence in gaps(segments)]
    used: list[tuple[Segment, T]] = []
    merged: list[Segment] = []
    # The newest generation first: only one that is whole takes the place of those it was made from.
    for segment in sorted(segments, key=lambda one: -one.generation):
        if any(other.replaces(segment) for other in merged):
            continue
        try:
            _refuse_overlap(segment, merged)
            used.append((segment, use(segment, _checked(folder, segment))))
        except SegmentError as error:
            problems.append(f"{folder.name}/{segment.name}: {error}")
        else:
            merged += [segment] if segment.generation else []
    return [made for _, made in sorted(used, key=lambda pair: pair[0])], sorted(problems)


def _refuse_overlap(segment: Segment, merged: list[Segment]) -> None:
    """No writer of ours makes these; read both, and some rows would count twice."""
    for other in merged:
        if segment.writer == other.writer and segment.first <= other.last and other.first <= segment.last:
            raise SegmentError(f"holds rows that {other.name} holds too")


def _checked(folder: Folder, segment: Segment) -> bytes:
    try:
        data = folder.read(segment.name)
    except FileNotFoundError as error:
        raise _GoneError from error
    except OSError as error:
        raise SegmentError(f"not readable: {error.strerror or error}") from error
    if zlib.crc32(data) != segment.crc:
        raise SegmentError(f"torn or altered: its {len(data)} bytes do not have the checksum in its name")
    return data


_FOREIGN = "foreign file: a segment is named part-<writer>-<n>-<crc32>.parquet"
