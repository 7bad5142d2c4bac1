"""What the metrics of a run come to, by component, stage and metric: computed once a run, so that a thousand answer at once.

A summary is kept in the home's cache beside the names of the segments it was made from. Those names carry checksums: as long as
they are the same, so are the rows. Anything else, and the run is summed up anew. The cache may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection

from storage.encoding import Effort, facts, in_memory
from storage.folders import LocalFolder
from storage.layout import RunPaths, cache_dir, runs_dir
from storage.merging import write_rows
from storage.reader import each_segment
from storage.schemas import METRICS, SUMMARIES
from storage.views import add_table, connect, quoted

_CACHED = SUMMARIES.append(pa.field("made_from", pa.string(), metadata={"unit": ""}))
_CACHED = in_memory(_CACHED.append(pa.field("problems", pa.string(), metadata={"unit": ""})))

_SUM_UP = """
SELECT run_id, component, regexp_replace(component, '[0-9]+$', '') AS role, coalesce(stage, '') AS stage, metric, unit,
       count(*) FILTER (isfinite(value)) AS n, count(*) FILTER (value IS NULL) AS missed,
       avg(value) FILTER (isfinite(value)) AS mean, coalesce(var_pop(value) FILTER (isfinite(value)) * n, 0) AS m2,
       min(value) FILTER (isfinite(value)) AS "min", max(value) FILTER (isfinite(value)) AS "max",
       min(wall_s) AS first_s, max(wall_s) AS last_s
FROM metrics GROUP BY ALL
"""


def add_summaries(connection: DuckDBPyConnection, run_ids: Sequence[str], has_ended: Callable[[str], bool]) -> list[str]:
    """The view `summaries` of the runs; returns a sentence for each file that is in none. Runs under way are not remembered."""
    base = runs_dir()
    wanted = {run_id: _made_from(RunPaths(base / run_id).table("metrics")) for run_id in run_ids}
    connection.execute(f"CREATE VIEW kept AS {_kept()}")
    told = {run: (key, json.loads(text)) for run, key, text in connection.execute(_TOLD).fetchall()}
    known = [run for run, key in wanted.items() if told.get(run, ("", []))[0] == key]
    new = _sum_up({run_id: key for run_id, key in wanted.items() if run_id not in set(known)})
    connection.register("new", new.replace_schema_metadata(None))
    connection.register("known", pa.table({"run_id": pa.array(known, pa.string())}))
    connection.execute(f"CREATE VIEW summaries AS SELECT {_COLUMNS} FROM ({_KNOWN} UNION ALL SELECT * FROM new)")  # noqa: S608
    lasting = [run_id for run_id in pc.unique(new["run_id"]).to_pylist() if has_ended(run_id)]
    if lasting:
        connection.register("lasting", pa.table({"run_id": pa.array(lasting, pa.string())}))
        _save(connection.sql(_LASTING).to_arrow_table().cast(_CACHED))
    texts = [json.loads(text) for text in pc.unique(new["problems"]).to_pylist()]
    return sorted({sentence for sentences in [*texts, *(told[run][1] for run in known)] for sentence in sentences})


_COLUMNS = ", ".join(f'"{name}"' for name in SUMMARIES.names)
_TOLD = "SELECT DISTINCT run_id, made_from, problems FROM kept"
_KNOWN = "SELECT * FROM kept SEMI JOIN known USING (run_id)"
_LASTING = """
SELECT * FROM kept WHERE run_id NOT IN (SELECT run_id FROM lasting)
UNION ALL SELECT * FROM new WHERE run_id IN (SELECT run_id FROM lasting)
"""


def _sum_up(made_from: dict[str, str]) -> pa.Table:
    """Rows of `_CACHED` from the metrics themselves. A run without metrics has no rows."""
    if not made_from:
        return _CACHED.empty_table()
    with connect() as connection:
        problems = add_table(connection, METRICS, "metrics", list(made_from))
        rows = connection.sql(_SUM_UP).to_arrow_table().cast(SUMMARIES.remove_metadata())
    by_run = {run: json.dumps([text for text in problems if text.startswith(f"{run}:")]) for run in made_from}
    runs = rows["run_id"].to_pylist()
    rows = rows.append_column("made_from", pa.array([made_from[run] for run in runs], pa.string()))
    return rows.append_column("problems", pa.array([by_run[run] for run in runs], pa.string())).cast(_CACHED)


def _made_from(folder: Path) -> str:
    """The names of a table's files as one hash: they carry the checksums of their content."""
    return hashlib.sha256("\n".join(LocalFolder(folder).names()).encode("utf-8", "surrogateescape")).hexdigest()


def _kept() -> str:
    """What reads the cache, where there is one that is whole."""
    folder = cache_dir() / "summaries"
    found, _ = each_segment(folder, lambda segment, data: (segment.name, facts(data, _CACHED)))
    columns = ", ".join(f'"{name}"' for name in _CACHED.names)
    if found:
        return f"SELECT {columns} FROM read_parquet({quoted(folder / found[-1][0])})"  # noqa: S608 - ours
    nothing = ", ".join(
        f'NULL::{"VARCHAR" if pa.types.is_dictionary(one.type) else "DOUBLE"} AS "{one.name}"' for one in _CACHED
    )
    return f"SELECT {nothing} WHERE false"


def _save(rows: pa.Table) -> None:
    """The cache anew, in place of what was there. Two at once: one of them is kept, and both are right."""
    folder = LocalFolder(cache_dir() / "summaries")
    before = folder.names()
    kept = write_rows(folder, rows, "cache", range(1), 0, Effort.LIVE)
    for name in before:
        if name != kept.name:
            folder.remove(name)
