"""Rows to the bytes of a Parquet segment and back.

What is done to make them small was chosen by measurement (``bench/storage.py``, figures in docs/storage.md): times and values
as byte streams apart, so that what neighbours share lies together; line numbers and offsets as differences; everything else
by dictionary; zstd over all of it (LZ4, in half the time, while it waits to be merged); no statistics and no Arrow schema in
the footer, which would outweigh a small one's rows.

Clocks of `metrics` are kept to 1/1024 s and values that are not whole to 24 significant bits, rates that were sampled to 13: a
tick's one time stands for the milliseconds in which it was read, so they are known to a few parts in a thousand at best. All of
it is more than any source can tell; the noise below would be most of a stored sample.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage.migrations import migrate

Floats = npt.NDArray[np.float64]

_CLOCK_HZ = 1024.0
#: Bits of a double's 52 that are dropped to keep 24 significant ones (the first is implied), and 13 of a sampled rate.
_DROPPED_BITS = 29
_DROPPED_OF_RATES = 40
#: Units of what is told per time: a difference between two readings over the time between them.
_RATES = ("1/s", "bytes/s", "cores")
#: Values rounded at a time, so that they stay in a core's cache: three times as fast as a whole column at once.
_BLOCK = 1 << 14

#: Rows of a group within a file: what DuckDB reads at a time on one core. What is kept for long is one group, which is smaller.
_GROUP_ROWS = 122_880
_KEPT_GROUP_ROWS = 1 << 20

#: The columns that make a series: kept segments hold each series together, in the order in which it was written.
SERIES = {"metrics": ("metric", "component", "host", "stage", "unit")}


class SegmentError(ValueError):
    """A file that is no readable segment of the table; the text says why."""


class Effort(Enum):
    """Compression: of a running writer, whose time is the job's, for seconds and until it ends; at its end; of what is kept."""

    LIVE = ("lz4", None)
    MERGED = ("zstd", 1)
    CLOSED = ("zstd", 9)
    KEPT = ("zstd", 19)


#: Texts that differ from row to row; all others repeat, and are held by dictionary.
_FREE_TEXT = ("message", "detail")


def in_memory(schema: pa.Schema) -> pa.Schema:
    """The schema with repeating texts by dictionary: how rows are held until they are written."""
    by_number = pa.dictionary(pa.int32(), pa.string())
    repeats = [field.type == pa.string() and field.name not in _FREE_TEXT for field in schema]
    fields = [field.with_type(by_number) if often else field for field, often in zip(schema, repeats, strict=True)]
    return pa.schema(fields, schema.metadata)


def encode(rows: pa.Table, effort: Effort = Effort.LIVE) -> pa.Buffer:
    """The bytes of a segment of rows that are `rounded`. ``rows.schema`` carries table, version and units."""
    rows = rows.unify_dictionaries().combine_chunks()
    if effort in (Effort.CLOSED, Effort.KEPT):
        rows = in_series(rows, table_of(rows.schema))
    codec, level = effort.value
    group = _KEPT_GROUP_ROWS if effort is Effort.KEPT else _GROUP_ROWS
    sink = pa.BufferOutputStream()  # Arrow's own memory: a file of Python's would be called for each piece
    with pq.ParquetWriter(sink, rows.schema, compression=codec, compression_level=level, **_layout(rows.schema, group)) as file:
        file.write_table(rows, group)
        file.add_key_value_metadata(_told(rows.schema))
    return sink.getvalue()


def decode(data: bytes | memoryview, schema: pa.Schema) -> pa.Table:
    """The rows of a segment as today's ``schema`` has them, its texts by dictionary where it says so. Raises SegmentError."""
    by_number = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    try:
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=by_number)
        version = version_of(file.schema_arrow, schema)
        # By this thread alone: Arrow's pool may let go of our bytes after it has answered, and a thread that then finds the
        # interpreter ended takes the process down with it.
        rows = file.read(use_threads=False)
        return migrate(rows, table_of(schema), version, today(schema)).select(schema.names).cast(schema)
    except SegmentError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise SegmentError(f"not readable as Parquet: {(str(error).splitlines() or [''])[0][:200]}") from error


def facts(data: bytes | memoryview, schema: pa.Schema) -> tuple[int, int]:
    """Version and rows of a segment of this table, from its footer alone. Raises SegmentError."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        return version_of(file.schema_arrow, schema), int(file.metadata.num_rows)
    except SegmentError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise SegmentError(f"not readable as Parquet: {(str(error).splitlines() or [''])[0][:200]}") from error


def version_of(found: pa.Schema, wanted: pa.Schema) -> int:
    """The version of ``found``. SegmentError unless it is the wanted table, complete, in a version this program knows."""
    have = found.metadata or {}
    if have.get(b"table") != wanted.metadata[b"table"]:
        raise SegmentError(f"table {_text(have.get(b'table'))!r}, not {table_of(wanted)!r}")
    told = _text(have.get(b"schema_version"))
    if not (told.isascii() and told.isdigit()) or not 1 <= int(told) <= today(wanted):
        raise SegmentError(f"schema version {told or 'unknown'}; this program knows {today(wanted)}")
    if int(told) == today(wanted):
        _refuse_columns(found, wanted)
    return int(told)


def _refuse_columns(found: pa.Schema, wanted: pa.Schema) -> None:
    missing = [name for name in wanted.names if name not in found.names]
    if missing:
        raise SegmentError(f"column(s) {', '.join(missing)} missing")
    for field in wanted:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if len(found.get_all_field_indices(field.name)) > 1 or found.field(field.name).type not in (kind, field.type):
            raise SegmentError(f"column {field.name} is not one column of {field.type}")


def today(schema: pa.Schema) -> int:
    """The version that is written."""
    return int(schema.metadata[b"schema_version"])


def table_of(schema: pa.Schema) -> str:
    """The name of the table."""
    return str(schema.metadata[b"table"].decode())


def in_series(rows: pa.Table, table: str) -> pa.Table:
    """Rows with each series together, and in the order they had within it; as they are for tables that hold no series."""
    if table not in SERIES or not rows.num_rows:
        return rows
    keys = [rows[name].combine_chunks().dictionary_encode() for name in SERIES[table]]
    codes = [key.indices.fill_null(len(key.dictionary)).to_numpy(zero_copy_only=False) for key in keys]
    return rows.take(pa.array(np.lexsort(codes[::-1])))


def rounded(rows: pa.Table) -> pa.Table:
    """Rows as exact as they are kept: clocks and values of metrics are rounded, all else is as it was."""
    if table_of(rows.schema) != "metrics" or not rows.num_rows:
        return rows
    columns = dict(zip(rows.column_names, _arrays(rows), strict=True))
    rates = _sampled_rates(columns["unit"], columns["step"])
    for name in ("wall_s", "mono_s", "value"):
        column = columns[name]
        valid, data = column.buffers()
        values = np.frombuffer(data, np.float64, len(column), column.offset * 8)
        kept = _each_block(values, _to_significant if name == "value" else _to_clock)
        if name == "value":
            kept[rates] = _each_block(kept[rates], _to_rate)
        if column.offset and column.null_count:
            valid = column.is_valid().buffers()[1]
        columns[name] = pa.Array.from_buffers(pa.float64(), len(column), [valid, pa.py_buffer(kept)])
    return pa.Table.from_arrays(list(columns.values()), schema=rows.schema)


def _arrays(rows: pa.Table) -> list[pa.Array]:
    """Each column as one array; a flush's are already."""
    if any(column.num_chunks != 1 for column in rows.columns):
        rows = rows.unify_dictionaries().combine_chunks()
    return [column.chunk(0) for column in rows.columns]


def _sampled_rates(unit: pa.Array, step: pa.Array) -> npt.NDArray[np.intp]:
    """Where rows are rates and belong to no step: the sampler's. In NumPy, whose calls cost least on a flush's few rows."""
    unit = unit.dictionary_encode()
    known = np.array([text in _RATES for text in [*unit.dictionary.to_pylist(), ""]], np.bool_)
    return np.flatnonzero(known[_filled(unit.indices, len(known) - 1)] & (_filled(step, 0) == -1))


def _filled(column: pa.Array, missing: int) -> npt.NDArray[np.int32]:
    filled: npt.NDArray[np.int32] = (column.fill_null(missing) if column.null_count else column).to_numpy()
    return filled


def _each_block(old: Floats, to_grid: Any) -> Floats:
    new = np.empty_like(old)
    with np.errstate(invalid="ignore", over="ignore"):  # whatever lies where a value is missing
        for start in range(0, len(old), _BLOCK):
            to_grid(old[start : start + _BLOCK], new[start : start + _BLOCK])
    return new


def _to_clock(old: Floats, new: Floats) -> None:
    np.multiply(old, _CLOCK_HZ, out=new)
    np.rint(new, out=new)
    np.divide(new, _CLOCK_HZ, out=new)
    np.copyto(new, old, where=~np.isfinite(new))


def _to_significant(old: Floats, new: Floats, dropped_bits: int = _DROPPED_BITS) -> None:
    """Round the mantissa to nearest; whole numbers (bytes, counts) and what is not finite stay as they are."""
    bits = old.view(np.int64) + (1 << (dropped_bits - 1))
    np.bitwise_and(bits, ~((1 << dropped_bits) - 1), out=new.view(np.int64))
    np.copyto(new, old, where=(old == np.rint(old)) | ~np.isfinite(old))


def _to_rate(old: Floats, new: Floats) -> None:
    _to_significant(old, new, _DROPPED_OF_RATES)


def _told(schema: pa.Schema) -> dict[bytes, bytes]:
    """Name, version and units of a table as text that any Parquet reader shows; the meanings are in docs/tables.md."""
    units = {field.name: field.metadata[b"unit"].decode() for field in schema if field.metadata[b"unit"]}
    return {**schema.metadata, b"units": json.dumps(units).encode()}


def _layout(schema: pa.Schema, page_rows: int) -> dict[str, Any]:
    split = {field.name: "BYTE_STREAM_SPLIT" for field in schema if pa.types.is_floating(field.type)}
    steps = {field.name: "DELTA_BINARY_PACKED" for field in schema if field.name in ("line", "offset", "size")}
    apart = {**split, **steps}
    return {
        "use_dictionary": [name for name in schema.names if name not in apart],
        "column_encoding": apart or None,
        "write_statistics": False,
        "store_schema": False,
        # What repeats is found within a page alone, and every series has the same times.
        "max_rows_per_page": page_rows,
        "data_page_size": 8 * page_rows,
    }


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
