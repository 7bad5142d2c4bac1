"""Append rows to a table folder as Parquet segments; a kill loses at most one flush interval, never what was there.

A segment is visible whole or not at all, and its name carries the checksum of the whole file, so that a torn or altered one is
known without trusting its content. Every eight flushes become one segment, eight of those one again, and so on; what is left at
the end becomes one. Writers of different names need no lock, on one host or several.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.encoding import Effort, in_memory, rounded
from storage.folders import Folder, open_folder
from storage.merging import write_rows
from storage.segments import Segment, segment_of

#: How many segments of one generation become one of the next.
_FAN_IN = 8
#: A segment of this many rows is large enough: its footer weighs nothing, and merging it would cost more than it spares. Rows
#: of smaller ones stay in memory (50 bytes each) until they are merged: reading them back would cost more than writing them.
_ENOUGH_ROWS = 100_000
#: How long what was merged stays where it is: a reader that has listed it may still open it.
_REPLACED_STAY_S = 10.0


class TableWriteError(OSError):
    """Rows could not be stored. They are kept in memory and tried again; segments written earlier are untouched."""


@dataclass(frozen=True)
class _Small:
    """A segment that will be merged, and what is in it."""

    segment: Segment
    rows: pa.Table


class TableWriter:
    """Writes rows of one table. Thread-safe; a background thread flushes every ``flush_s`` seconds, or call `flush`.

    ``where`` is a folder or a URI. ``writer`` names this writer's segments (default: the process id) and must be unique among
    those alive on the folder, whatever their host. ``waiting`` is asked at each flush, by the thread that does it, for rows
    that somebody else holds until then.
    """

    def __init__(
        self,
        where: Folder | Path | str,
        schema: pa.Schema,
        flush_s: float = 2.0,
        flush_rows: int = 200_000,
        writer: str = "",
        waiting: Callable[[], pa.Table] | None = None,
    ) -> None:
        self.folder = open_folder(where)
        self.schema = schema
        self._flush_rows = flush_rows
        self._writer = writer or str(os.getpid())
        if not (self._writer.isascii() and self._writer.isalnum()):
            raise ValueError(f"a writer's name is letters and digits, not {writer!r}")
        self._next = next_number(self.folder, self._writer)
        self._held = in_memory(schema)
        self._waiting = waiting
        self._appended: list[pa.Table] = []
        self._rows = 0
        self._small: list[_Small] = []
        self._replaced: deque[tuple[float, Segment]] = deque()
        self._failure: Exception | None = None
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._flush_often, args=(flush_s,), name="table-writer", daemon=True)
        self._thread.start()

    def append(self, rows: Mapping[str, Sequence[Any]] | Sequence[Sequence[Any]]) -> int:
        """Add rows: equally long columns by name (a missing column is null), or tuples in schema order. Returns how many.

        Raises ValueError or TypeError for data that does not fit the schema (nothing is added then), and as `check`.
        """
        if self._stop.is_set():
            raise ValueError("the writer is closed")
        added = to_table(rows, self._held)
        with self._lock:
            self._appended.append(added)
            self._rows += added.num_rows
            full = self._rows >= self._flush_rows
        self.check()
        if full:
            self.flush()
        return int(added.num_rows)

    def check(self) -> None:
        """Raise, once, what a flush in the background failed with: a TableWriteError, or a mistake of who holds rows back."""
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def flush(self) -> None:
        """Make everything appended so far visible. Raises TableWriteError."""
        with self._writing:
            self._write(Effort.LIVE)
            while (recent := self._ripe()) and self._join(recent, Effort.MERGED):
                pass
            self._remove_replaced(time.monotonic() - _REPLACED_STAY_S)

    def close(self) -> None:
        """Flush, merge and end; idempotent. Raises TableWriteError."""
        self._stop.set()
        self._thread.join()
        with self._writing:
            self._write(Effort.LIVE if self._small or self._rows >= _ENOUGH_ROWS else Effort.CLOSED)
            if len(self._small) > 1:
                self._join(self._small, Effort.CLOSED)
            self._remove_replaced(time.monotonic())

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, effort: Effort) -> None:
        more = [self._waiting()] if self._waiting else []
        with self._lock:
            tables, self._appended, self._rows = [*self._appended, *more], [], 0
        rows = rounded(pa.concat_tables(tables)) if tables else self._held.empty_table()
        if not rows.num_rows:
            return
        if effort is Effort.LIVE and rows.num_rows >= _ENOUGH_ROWS:
            effort = Effort.MERGED  # it will not be
        try:
            numbers = range(self._next, self._next + 1)
            segment = write_rows(self.folder, rows, self._writer, numbers, generation=0, effort=effort)
        except OSError as error:
            with self._lock:
                self._appended, self._rows = [rows, *self._appended], self._rows + rows.num_rows
            raise _explain(error, self.folder.name, rows.num_rows) from error
        self._next += 1
        self._keep(_Small(segment, rows))

    def _keep(self, made: _Small) -> None:
        """One that is large enough stands as it is, and nothing before it will be merged with what follows."""
        self._small = [*self._small, made] if made.rows.num_rows < _ENOUGH_ROWS else []

    def _ripe(self) -> list[_Small]:
        """The newest ones of one generation, once they are as many as are merged, or together large enough; else none."""
        if not self._small:
            return []
        generation = self._small[-1].segment.generation
        count = len(list(takewhile(lambda one: one.segment.generation == generation, reversed(self._small))))
        alike = self._small[-count:]
        enough = len(alike) >= _FAN_IN or sum(one.rows.num_rows for one in alike) >= _ENOUGH_ROWS
        return alike if enough and len(alike) > 1 else []

    def _join(self, recent: list[_Small], effort: Effort) -> bool:
        """One segment in place of the newest ones. Where that fails (no room) they stay as they are: nothing is lost by it."""
        segments = [one.segment for one in recent]
        numbers = range(segments[0].first, segments[-1].last + 1)
        generation = 1 + max(segment.generation for segment in segments)
        rows = pa.concat_tables([one.rows for one in recent])
        try:
            made = write_rows(self.folder, rows, self._writer, numbers, generation, effort)
        except OSError:
            self._small = []
            return False
        now = time.monotonic()
        self._replaced += [(now, segment) for segment in segments]
        self._small = self._small[: -len(recent)]
        self._keep(_Small(made, rows))
        return True

    def _remove_replaced(self, until: float) -> None:
        """Those replaced by then, on the monotonic clock. What a kill leaves here does not count, by its name."""
        with suppress(OSError):  # a store that cannot be reached now is asked again
            while self._replaced and self._replaced[0][0] <= until:
                self.folder.remove(self._replaced[0][1].name)
                self._replaced.popleft()

    def _flush_often(self, flush_s: float) -> None:
        while not self._stop.wait(flush_s):
            try:
                self.flush()
            except Exception as error:  # whoever looks next is told
                self._failure = error


def to_table(rows: Mapping[str, Sequence[Any]] | Sequence[Sequence[Any]], held: pa.Schema) -> pa.Table:
    """Rows as an Arrow table of ``held`` (`in_memory`). Raises ValueError or TypeError naming what does not fit."""
    columns = dict(rows) if isinstance(rows, Mapping) else _transpose(rows, held)
    strange = sorted(set(columns) - set(held.names))
    if strange:
        raise ValueError(f"unknown column(s) {', '.join(strange)}; known: {', '.join(held.names)}")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"columns of different lengths: {sorted(lengths)}")
    length = lengths.pop() if lengths else 0
    arrays = [_array(columns[f.name], f.type) if f.name in columns else pa.nulls(length, f.type) for f in held]
    return pa.Table.from_arrays(arrays, schema=held)


def _array(column: Sequence[Any], kind: pa.DataType) -> pa.Array:
    return column.cast(kind) if isinstance(column, pa.Array) else pa.array(column, kind)


def _transpose(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> dict[str, Sequence[Any]]:
    if any(len(row) != len(schema) for row in rows):
        raise ValueError(f"a row of this table has {len(schema)} values: {', '.join(schema.names)}")
    return dict(zip(schema.names, zip(*rows, strict=True), strict=True)) if rows else {}


def remove_segments(where: Folder | Path | str, writer: str) -> None:
    """Take away what ``writer`` wrote to the folder before, to write it anew. Segments of other writers stay."""
    folder = open_folder(where)
    for segment in _segments_of(folder, writer):
        folder.remove(segment.name)


def next_number(where: Folder | Path | str, writer: str) -> int:
    """The first segment number that ``writer`` has not used in the folder: a restarted writer goes on, it never overwrites."""
    return 1 + max((segment.last for segment in _segments_of(open_folder(where), writer)), default=-1)


def _segments_of(folder: Folder, writer: str) -> list[Segment]:
    return [segment for segment in map(segment_of, folder.names()) if segment and segment.writer == writer]


def _explain(error: OSError, table: str, rows: int) -> TableWriteError:
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
    return TableWriteError(error.errno, f"cannot store {rows} rows of table {table}: {reason}; earlier segments are intact")
