"""All runs of this home, as the experimenter sees them: a list, metrics across runs, and SQL over every table.

It joins truth (scenario, arm) to the manifests, so it is never a door for diagnosers. What cannot be read is named.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from storage.layout import RunPaths, run_paths, runs_dir
from storage.manifest import Manifest, ManifestError, RunState, load_manifest
from storage.schemas import RUNS, TABLES
from storage.summaries import add_summaries
from storage.truth import load_plan
from storage.views import add_table, connect, tables_named

UNREADABLE = "unreadable"

#: Whether a run counts, by the state the lab gave it; a running one is not decided.
_VALID = {RunState.COMPLETED.value: True, RunState.RUNNING.value: None}


@dataclass(frozen=True)
class RunRow:
    """One run. ``state`` is a RunState or ``unreadable``; times are wall clock seconds; ``valid`` is None while it runs."""

    run_id: str
    state: str
    profile: str = ""
    workload: str = ""
    posture: str = ""
    place: str = ""
    started_s: float | None = None
    ended_s: float | None = None
    scenario: str = ""
    arm: str = ""
    seed: int | None = None
    valid: bool | None = None
    outcome: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """Rows of a query with their column names, and one sentence for each file that was left out of it."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    problems: tuple[str, ...]

    def dicts(self) -> list[dict[str, Any]]:
        """The rows by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def run_ids_here() -> list[str]:
    """The ids of all runs of this home, sorted."""
    return sorted(path.name for path in runs_dir().iterdir() if path.is_dir() and not path.name.startswith("."))


def list_runs(since_s: float | None = None, **wanted: Any) -> list[RunRow]:
    """Every run, oldest first; damaged ones too, with the reason, after the others.

    ``wanted`` are values of RunRow that a run must have (``arm="legacy"``, ``valid=True``); ``since_s`` when it began at the
    earliest, in wall clock seconds.
    """
    rows = [open_run(run_id) for run_id in run_ids_here()]
    rows = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    if since_s is not None:
        rows = [row for row in rows if row.started_s is not None and row.started_s >= since_s]
    return sorted(rows, key=lambda row: (row.started_s is None, row.started_s or 0.0, row.run_id))


def open_run(run_id: str) -> RunRow:
    """One run. Raises ValueError for a text that is no run id, FileNotFoundError when there is no such run."""
    paths = run_paths(run_id)
    if not paths.root.is_dir():
        raise FileNotFoundError(f"no run {run_id!r} in {runs_dir()}")
    plan, problems = _plan(paths)
    told: dict[str, Any] = {name: str(plan.get(name, "")) for name in ("scenario", "arm")}
    seed = plan.get("seed")
    told["seed"] = seed if isinstance(seed, int) else None
    try:
        manifest = load_manifest(paths)
    except ManifestError as error:
        return RunRow(run_id, UNREADABLE, valid=False, problems=(str(error), *problems), **told)
    return RunRow(**_public(manifest), **told, valid=_VALID.get(manifest.state, False), problems=problems)


def metrics(
    run_ids: Sequence[str] | None = None,
    metric: str | None = None,
    component: str | None = None,
    stage: str | None = None,
) -> Answer:
    """Metric rows (the METRICS columns and run_id) of the runs (None = all), by time; the filters are exact names."""
    wanted = {"metric": metric, "component": component, "stage": stage}
    clauses = [f"{name} = ${name}" for name, value in wanted.items() if value is not None]
    where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    sql = f"SELECT * FROM metrics{where} ORDER BY run_id, wall_s"  # noqa: S608 - names are ours, values are parameters
    return query(sql, run_ids, {name: value for name, value in wanted.items() if value is not None})


def pooled(run_ids: Sequence[str] | None = None, **wanted: str) -> Answer:
    """Mean and sd over all samples of the runs (None = all), by stage, role and metric, from the runs' summaries.

    ``wanted`` are exact values of stage, role, metric or component. Columns: stage, role, metric, unit, run_count, n, missed,
    mean, sd (n - 1 in its denominator; null for one sample), min, max.
    """
    strange = sorted(set(wanted) - {"stage", "role", "metric", "component"})
    if strange:
        raise ValueError(f"cannot select by {', '.join(strange)}; by stage, role, metric or component")
    clauses = "".join(f" AND {name} = ${name}" for name in wanted)
    return query(_POOLED.replace("/* wanted */", clauses), run_ids, dict(wanted))


def query(sql: str, run_ids: Sequence[str] | None = None, parameters: dict[str, Any] | None = None) -> Answer:
    """Answer one SQL statement over the views of docs/tables.md (runs, events, ...) of the runs (None = all).

    Each view has a run_id column. Only segments with an intact checksum and a known schema take part. Raises ValueError with
    DuckDB's sentence for bad SQL, FileNotFoundError for a run that does not exist.
    """
    ids = run_ids_here() if run_ids is None else [open_run(run_id).run_id for run_id in run_ids]
    for tries_left in reversed(range(3)):
        try:
            return _answer(sql, ids, parameters or {})
        except duckdb.IOException as error:
            # A living writer merged segments between our look and DuckDB's: look again.
            if not tries_left:
                raise ValueError(str(error)) from error
        except duckdb.Error as error:
            raise ValueError(str(error).split("\n\n", maxsplit=1)[0].replace("\n", " ")) from error
    raise AssertionError


def _answer(sql: str, run_ids: Sequence[str], parameters: dict[str, Any]) -> Answer:
    problems: list[str] = []
    with connect() as connection:
        named = tables_named(sql)
        for name, schema in TABLES.items():
            if name in named:
                problems += add_table(connection, schema, name, run_ids)
        if "runs" in named:
            connection.register("runs", _runs_table(run_ids))
        if "summaries" in named:
            problems += add_summaries(connection, run_ids, _has_ended)
        found = connection.execute(sql, parameters)
        columns = tuple(column[0] for column in found.description or ())
        return Answer(columns, found.fetchall(), tuple(dict.fromkeys(problems)))


def _has_ended(run_id: str) -> bool:
    try:
        return load_manifest(run_paths(run_id)).state != RunState.RUNNING
    except ManifestError:
        return True


def _runs_table(run_ids: Sequence[str]) -> pa.Table:
    rows = [asdict(open_run(run_id)) for run_id in run_ids]
    texts = ("outcome", "problems")
    plain = [{**row, **{name: json.dumps(row[name]) for name in texts}} for row in rows]
    return pa.Table.from_pylist(plain, RUNS)


def _plan(paths: RunPaths) -> tuple[dict[str, Any], tuple[str, ...]]:
    try:
        return load_plan(paths), ()
    except (OSError, ValueError) as error:
        return {}, (f"{paths.run_id}: plan cannot be read: {error}",)


def _public(manifest: Manifest) -> dict[str, Any]:
    left_out = ("machine", "code_version", "schema_version")
    return {name: value for name, value in asdict(manifest).items() if name not in left_out}


#: Sums of squares about the common mean, not of squares: large values with a small spread keep their sd.
_POOLED = """
WITH chosen AS MATERIALIZED (SELECT * FROM summaries WHERE n > 0 /* wanted */),
totals AS MATERIALIZED (
    SELECT stage, role, metric, unit, count(DISTINCT run_id) AS run_count, sum(n)::BIGINT AS n, sum(missed)::BIGINT AS missed,
           sum(n * mean) / sum(n) AS mean, min("min") AS "min", max("max") AS "max"
    FROM chosen GROUP BY ALL
),
spread AS (
    SELECT stage, role, metric, unit, sum(m2 + chosen.n * (chosen.mean - totals.mean) ** 2) AS about_mean
    FROM chosen JOIN totals USING (stage, role, metric, unit) GROUP BY ALL
)
SELECT stage, role, metric, unit, run_count, n, missed, mean,
       CASE WHEN n > 1 THEN sqrt(about_mean / (n - 1)) END AS sd, "min", "max"
FROM totals JOIN spread USING (stage, role, metric, unit) ORDER BY ALL
"""
