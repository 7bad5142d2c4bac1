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

from storage.encoding import Effort, decode
from storage.folders import LocalFolder
from storage.layout import cache_dir, run_paths
from storage.merging import write_rows
from storage.reader import each_segment
from storage.schemas import METRICS, SUMMARIES
from storage.views import add_table, connect

_CACHED = SUMMARIES.append(pa.field("made_from", pa.string(), metadata={"unit": ""}))
_CACHED = _CACHED.append(pa.field("problems", pa.string(), metadata={"unit": ""}))

_SUM_UP = """
SELECT run_id, component, regexp_replace(component, '[0-9]+$', '') AS role, coalesce(stage, '') AS stage, metric, unit,
       count(*) FILTER (isfinite(value)) AS n, count(*) FILTER (value IS NULL) AS missed,
       avg(value) FILTER (isfinite(value)) AS mean, coalesce(var_pop(value) FILTER (isfinite(value)) * n, 0) AS m2,
       min(value) FILTER (isfinite(value)) AS "min", max(value) FILTER (isfinite(value)) AS "max",
       min(wall_s) AS first_s, max(wall_s) AS last_s
FROM metrics GROUP BY ALL
"""


def summaries(run_ids: Sequence[str], has_ended: Callable[[str], bool]) -> tuple[pa.Table, list[str]]:
    """The SUMMARIES rows of the runs, and one sentence for each file that is in none. Only runs that ended are remembered."""
    wanted = {run_id: _made_from(run_paths(run_id).table("metrics")) for run_id in run_ids}
    kept = _load()
    told = [f"{run}\n{key}" for run, key in wanted.items()]
    known = kept.filter(
        pc.is_in(pc.binary_join_element_wise(kept["run_id"], kept["made_from"], "\n"), pa.array(told, pa.string()))
    )
    here = set(pc.unique(known["run_id"]).to_pylist())
    new = _sum_up({run_id: key for run_id, key in wanted.items() if run_id not in here})
    lasting = [run_id for run_id in pc.unique(new["run_id"]).to_pylist() if has_ended(run_id)]
    if lasting:
        others = kept.filter(pc.invert(pc.is_in(kept["run_id"], new["run_id"])))
        _save(pa.concat_tables([others, new.filter(pc.is_in(new["run_id"], pa.array(lasting, pa.string())))]))
    rows = pa.concat_tables([known, new])
    problems = {sentence for text in pc.unique(rows["problems"]).to_pylist() for sentence in json.loads(text)}
    return rows.select(SUMMARIES.names), sorted(problems)


def _sum_up(made_from: dict[str, str]) -> pa.Table:
    """Rows of `_CACHED` from the metrics themselves. A run without metrics has no rows."""
    if not made_from:
        return _CACHED.empty_table()
    with connect() as connection:
        problems = add_table(connection, METRICS, "metrics", list(made_from))
        rows = connection.sql(_SUM_UP).to_arrow_table().cast(pa.schema(SUMMARIES.remove_metadata()))
    by_run = {run: json.dumps([text for text in problems if text.startswith(f"{run}:")]) for run in made_from}
    runs = rows["run_id"].to_pylist()
    rows = rows.append_column("made_from", pa.array([made_from[run] for run in runs], pa.string()))
    return rows.append_column("problems", pa.array([by_run[run] for run in runs], pa.string())).cast(_CACHED)


def _made_from(folder: Path) -> str:
    """The names of a table's files as one hash: they carry the checksums of their content."""
    return hashlib.sha256("\n".join(LocalFolder(folder).names()).encode("utf-8", "surrogateescape")).hexdigest()


def _load() -> pa.Table:
    found, _ = each_segment(cache_dir() / "summaries", lambda _segment, data: decode(data, _CACHED))
    return found[-1] if found else _CACHED.empty_table()


def _save(rows: pa.Table) -> None:
    """The cache anew, in place of what was there. Two at once: one of them is kept, and both are right."""
    folder = LocalFolder(cache_dir() / "summaries")
    before = folder.names()
    kept = write_rows(folder, rows, "cache", range(1), 0, Effort.LIVE)
    for name in before:
        if name != kept.name:
            folder.remove(name)
