"""Read a table folder: every whole segment of this schema; whatever else lies there is named and left out."""

from __future__ import annotations

import os
import re
import stat
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.records import SCHEMA_VERSION

_NAME = re.compile(r"part-[A-Za-z0-9]+-\d+-(?P<crc>[0-9a-f]{8})\.parquet")


class SegmentError(ValueError):
    """A file that is no readable segment of the table; the text says why."""


def read_table(folder: Path, schema: pa.Schema) -> tuple[pa.Table, list[str]]:
    """All rows of the table, in the order written by each writer, and one sentence for each file that was left out.

    A folder that does not exist is an empty table. Hidden files are segments being written and are not looked at.
    """
    tables, problems = [schema.empty_table()], []
    for path in table_files(folder):
        try:
            tables.append(read_segment(path, schema))
        except SegmentError as error:
            problems.append(f"{folder.name}/{path.name}: {error}")
    return pa.concat_tables(tables), problems


def table_files(folder: Path) -> list[Path]:
    """Everything in the folder that is not hidden, sorted by name."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_segment(path: Path, schema: pa.Schema) -> pa.Table:
    """One segment as a table of ``schema``. Raises SegmentError."""
    data = checked_bytes(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        check_schema(file.schema_arrow, schema)
        return file.read().select(schema.names).cast(schema)
    except SegmentError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise SegmentError(f"not readable as Parquet: {str(error).splitlines()[0][:200]}") from error


def checked_bytes(path: Path) -> bytes:
    """The bytes of a segment whose name and checksum fit. Raises SegmentError."""
    name = _NAME.fullmatch(path.name)
    if not name:
        raise SegmentError("foreign file: a segment is named part-<writer>-<n>-<crc32>.parquet")
    try:
        # O_NONBLOCK and no link followed: a pipe or a device in the folder must not hold the reader up.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:  # noqa: PTH123 - needs the flags
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SegmentError("not a plain file")
            data = file.read()
    except OSError as error:
        raise SegmentError(f"not readable: {error.strerror or error}") from error
    if zlib.crc32(data) != int(name["crc"], 16):
        raise SegmentError(f"torn or altered: its {len(data)} bytes do not have the checksum in its name")
    return data


def check_schema(found: pa.Schema, wanted: pa.Schema) -> None:
    """Raise SegmentError unless ``found`` is the wanted table in a version this program knows."""
    have, want = found.metadata or {}, wanted.metadata or {}
    if have.get(b"table") != want.get(b"table"):
        raise SegmentError(f"table {_text(have.get(b'table'))!r}, not {_text(want.get(b'table'))!r}")
    version = _text(have.get(b"schema_version"))
    if not version.isdigit() or int(version) > SCHEMA_VERSION:
        raise SegmentError(f"schema version {version or 'unknown'}; this program knows {SCHEMA_VERSION}")
    missing = [name for name in wanted.names if name not in found.names]
    if missing:
        raise SegmentError(f"column(s) {', '.join(missing)} missing")


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
