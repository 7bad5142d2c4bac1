"""The tables of many runs as views of a DuckDB connection: what SQL sees. Each view has a run_id column first."""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from storage.encoding import facts, today
from storage.layout import run_paths
from storage.reader import each_segment, read_segment
from storage.schemas import VIEWS


def connect() -> duckdb.DuckDBPyConnection:
    """A database in memory that answers in UTC, and looks neither on a network for extensions nor in Python for tables."""
    settings = {"autoinstall_known_extensions": "false", "python_enable_replacements": "false", "TimeZone": "UTC"}
    connection = duckdb.connect(config=settings)
    connection.execute("SET enable_progress_bar = false")
    return connection


def tables_named(sql: str) -> set[str]:
    """Which of our views a statement may read: those named where a table can stand. The others need not be made."""
    return {name for name in VIEWS if re.search(rf'(?:\b(?:from|join)|[,(])\s*(?:main\.)?"?{name}\b', sql, re.IGNORECASE)}


def add_table(connection: duckdb.DuckDBPyConnection, schema: pa.Schema, name: str, run_ids: Sequence[str]) -> list[str]:
    """A view of one table of the runs; returns one sentence for each file that is left out.

    DuckDB reads segments of today's version where they lie; older ones are migrated in memory first.
    """
    current: list[str] = []
    older: list[pa.Table] = []
    problems: list[str] = []
    for run_id in run_ids:
        folder = run_paths(run_id).table(name)
        found, bad = each_segment(folder, lambda segment, data: (segment.name, facts(data, schema)[0]))
        problems += [f"{run_id}: {problem}" for problem in bad]
        current += [str(folder / segment) for segment, version in found if version == today(schema)]
        old = [read_segment(folder, segment, schema) for segment, version in found if version != today(schema)]
        older += [with_run_id(rows, run_id) for rows in old]
    empty = with_run_id(schema.empty_table(), "")
    connection.register(f"{name}_older", pa.concat_tables([empty, *older]).replace_schema_metadata(None))
    connection.execute(f"CREATE VIEW {name} AS {_select(current, schema)} SELECT * FROM {name}_older")  # noqa: S608 - ours
    return problems


def with_run_id(rows: pa.Table, run_id: str) -> pa.Table:
    """The rows with their run in front."""
    return rows.add_column(0, "run_id", pa.repeat(pa.scalar(run_id, pa.string()), rows.num_rows))


def _select(paths: Sequence[str], schema: pa.Schema) -> str:
    if not paths:
        return ""
    files = ", ".join(map(quoted, paths))
    columns = ", ".join(f'"{name}"' for name in schema.names)
    # .../runs/<run id>/tables/<table>/<segment>
    run_id = "split_part(filename, '/', -4) AS run_id"
    return f"SELECT {run_id}, {columns} FROM read_parquet([{files}], filename=true) UNION ALL"  # noqa: S608 - ours


def quoted(text: object) -> str:
    """A path as SQL text."""
    return "'" + str(text).replace("'", "''") + "'"
