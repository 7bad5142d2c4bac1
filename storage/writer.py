"""Append rows to a table folder as Parquet segments; a kill loses at most one flush interval, never what was there.

A segment is ``part-<writer>-<n>-<crc32>.parquet``: written under a hidden name, fsynced, then renamed, so that a reader sees
all of it or nothing; the name carries the checksum of the whole file, so that a torn or altered one is known without trusting
its content.
"""

from __future__ import annotations

import errno
import io
import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.atomic import sync_folder

#: Columns whose values repeat are stored as dictionaries; floats that do not are split into byte streams, which zstd likes.
_SPLIT_COLUMNS = ("value",)


class TableWriteError(OSError):
    """Rows could not be stored. They are kept in memory and tried again; segments written earlier are untouched."""


class TableWriter:
    """Writes rows of one table. Thread-safe; a background thread flushes every ``flush_s`` seconds, or call `flush`.

    ``writer`` names this writer's segments (default: the process id) and must be unique among those alive on the folder.
    """

    def __init__(
        self, folder: Path, schema: pa.Schema, flush_s: float = 2.0, flush_rows: int = 200_000, writer: str = ""
    ) -> None:
        self.folder = folder
        self.schema = schema
        self._flush_rows = flush_rows
        self._writer = writer or str(os.getpid())
        if not self._writer.isalnum():
            raise ValueError(f"a writer's name is letters and digits, not {writer!r}")
        folder.mkdir(parents=True, exist_ok=True)
        self._next = next_number(folder, self._writer)
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._failure: TableWriteError | None = None
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._flush_often, args=(flush_s,), name="table-writer", daemon=True)
        self._thread.start()

    def append(self, rows: Mapping[str, Sequence[Any]] | Sequence[Sequence[Any]]) -> int:
        """Add rows: equally long columns by name (a missing column is null), or tuples in schema order. Returns how many.

        Raises ValueError or TypeError for data that does not fit the schema (nothing is added then), and TableWriteError if an
        earlier flush in the background failed.
        """
        if self._stop.is_set():
            raise ValueError("the writer is closed")
        batch = to_batch(rows, self.schema)
        with self._lock:
            self._batches.append(batch)
            self._rows += batch.num_rows
            full = self._rows >= self._flush_rows
            failure, self._failure = self._failure, None
        if failure:
            raise failure
        if full:
            self.flush()
        return int(batch.num_rows)

    def flush(self) -> None:
        """Make everything appended so far visible. Raises TableWriteError."""
        with self._writing:
            with self._lock:
                batches, self._batches, self._rows = self._batches, [], 0
            table = pa.Table.from_batches(batches, self.schema)
            if not table.num_rows:
                return
            try:
                write_segment(self.folder, table, self._writer, self._next)
            except OSError as error:
                with self._lock:
                    self._batches, self._rows = batches + self._batches, self._rows + table.num_rows
                raise _explain(error, self.folder, table.num_rows) from error
            self._next += 1

    def close(self) -> None:
        """Flush and end; idempotent. Raises TableWriteError."""
        self._stop.set()
        self._thread.join()
        self.flush()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _flush_often(self, flush_s: float) -> None:
        while not self._stop.wait(flush_s):
            try:
                self.flush()
            except TableWriteError as error:
                self._failure = error


def to_batch(rows: Mapping[str, Sequence[Any]] | Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as an Arrow batch of ``schema``. Raises ValueError or TypeError naming what does not fit."""
    columns = dict(rows) if isinstance(rows, Mapping) else _transpose(rows, schema)
    strange = sorted(set(columns) - set(schema.names))
    if strange:
        raise ValueError(f"unknown column(s) {', '.join(strange)}; known: {', '.join(schema.names)}")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"columns of different lengths: {sorted(lengths)}")
    length = lengths.pop() if lengths else 0
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(length, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _transpose(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> dict[str, Sequence[Any]]:
    if any(len(row) != len(schema) for row in rows):
        raise ValueError(f"a row of this table has {len(schema)} values: {', '.join(schema.names)}")
    return dict(zip(schema.names, zip(*rows, strict=True), strict=True)) if rows else {}


def write_segment(folder: Path, table: pa.Table, writer: str, number: int) -> Path:
    """Write one segment durably and return its path. Raises OSError."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **_encodings(table.schema))
    data = buffer.getbuffer()
    final = folder / f"part-{writer}-{number:06d}-{zlib.crc32(data):08x}.parquet"
    hidden = folder / f".part-{writer}-{number:06d}.tmp"
    try:
        with hidden.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(final)
        sync_folder(folder)
    except OSError:
        # The caller keeps the rows and writes them again: whatever of them is visible by now would count twice.
        hidden.unlink(missing_ok=True)
        final.unlink(missing_ok=True)
        raise
    return final


def remove_segments(folder: Path, writer: str) -> None:
    """Take away what ``writer`` wrote to ``folder`` before, to write it anew. Segments of other writers stay."""
    for path in folder.glob(f"part-{writer}-*-*.parquet"):
        path.unlink()


def next_number(folder: Path, writer: str) -> int:
    """The first segment number that ``writer`` has not used in ``folder``: a restarted writer goes on, it never overwrites."""
    used = [path.name.split("-")[-2] for path in folder.glob(f"part-{writer}-*-*.parquet")]
    return 1 + max((int(number) for number in used if number.isdigit()), default=-1)


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    split = [name for name in _SPLIT_COLUMNS if name in schema.names]
    return {
        "use_dictionary": [name for name in schema.names if name not in split],
        "column_encoding": dict.fromkeys(split, "BYTE_STREAM_SPLIT") or None,
    }


def _explain(error: OSError, folder: Path, rows: int) -> TableWriteError:
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
    sentence = f"cannot store {rows} rows of table {folder.name}: {reason}; earlier segments are intact"
    return TableWriteError(error.errno, sentence, str(folder))
