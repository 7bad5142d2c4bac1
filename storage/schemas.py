"""Arrow schemas of every table, in one place: what a column means, its unit, and the version of the table.

A change of a table's columns, or of what one of them means, raises its version here and adds a step to `storage.migrations`.
`docs/tables.md` is made from this file: ``python -m storage.dictionary``.
"""

from __future__ import annotations

import pyarrow as pa

#: The version that is written. Older ones are migrated when they are read, newer ones are refused by name.
VERSIONS = {"events": 1, "metrics": 3, "logs": 2, "injections": 1, "runs": 1, "summaries": 1}


def _field(name: str, kind: pa.DataType, unit: str, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "meaning": meaning})


def _schema(table: str, *fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={"schema_version": str(VERSIONS[table]), "table": table})


_TEXT, _REAL, _STEP = pa.string(), pa.float64(), pa.int32()
_WALL = _field("wall_s", _REAL, "s", "seconds since the Unix epoch, clock of the recording host")
_MONO = _field("mono_s", _REAL, "s", "monotonic clock of the recording host")
_RUN = _field("run_id", _TEXT, "", "the run's opaque name")

EVENTS = _schema(
    "events",
    _WALL,
    _MONO,
    _field("component", _TEXT, "", "who announced it, e.g. controller, rollout1"),
    _field("kind", _TEXT, "", "stage, rpc, worker"),
    _field("step", _STEP, "", "training step, -1 before the first"),
    _field("stage", _TEXT, "", "closed vocabulary Stage"),
    _field("phase", _TEXT, "", "enter, exit, error"),
    _field("detail", _TEXT, "", "JSON object of further attributes"),
)

METRICS = _schema(
    "metrics",
    _field("wall_s", _REAL, "s", "seconds since the Unix epoch, clock of the recording host; to 1/1024 s"),
    _field("mono_s", _REAL, "s", "monotonic clock of the recording host; to 1/1024 s"),
    _field("host", _TEXT, "", "virtual host or machine"),
    _field("component", _TEXT, "", "process it belongs to; the host's name for host metrics"),
    _field("step", _STEP, "", "training step, -1 where it has none"),
    _field("stage", _TEXT, "", "stage, empty where it has none"),
    _field("metric", _TEXT, "", "name, see docs/metrics.md; its unit is the unit column"),
    _field("unit", _TEXT, "", "s, bytes, ratio, count, bytes/s, samples/s"),
    _field(
        "value",
        _REAL,
        "see unit",
        "the sample; whole numbers exact, sampled rates to 13 bits, others to 24; null = missed, never filled in",
    ),
)

LOGS = _schema(
    "logs",
    _field("wall_s", _REAL, "s", "seconds since the Unix epoch as the line tells; null before the first line with a time"),
    _field("component", _TEXT, "", "whose log"),
    _field("line", _STEP, "", "line number in the raw log, from 1"),
    _field("level", _TEXT, "", "DEBUG, INFO, WARNING, ERROR, or empty for lines without one"),
    _field("message", _TEXT, "", "text after time and level, with the lines that belong to it"),
    _field("request_id", _TEXT, "", "request id, if the line carries one"),
    _field("step", _STEP, "", "step, -1 if the line tells none"),
    _field("stage", _TEXT, "", "stage, empty if the line tells none"),
    _field("offset", pa.int64(), "bytes", "where the row's text begins in the raw log; null in rows of version 1"),
    _field("size", pa.int64(), "bytes", "raw bytes of the row, line ends included; null in rows of version 1"),
)

INJECTIONS = _schema(
    "injections",
    _WALL,
    _MONO,
    _field("fault_id", _TEXT, "", "which fault of the plan"),
    _field("kind", _TEXT, "", "closed vocabulary FaultKind"),
    _field("target", _TEXT, "", "component or link"),
    _field("step", _STEP, "", "step of the trigger"),
    _field("stage", _TEXT, "", "stage of the trigger"),
    _field("state", _TEXT, "", "armed, fired, applied, verified, reverted, gone, expired, stuck, invalid"),
    _field("detail", _TEXT, "", "JSON object: receipt or reason"),
)

RUNS = _schema(
    "runs",
    _RUN,
    _field("state", _TEXT, "", "running, completed, invalid, crashed, cancelled, or unreadable"),
    _field("profile", _TEXT, "", "how large the experiment is"),
    _field("workload", _TEXT, "", "the job under test"),
    _field("posture", _TEXT, "", "how the job behaves when something fails"),
    _field("place", _TEXT, "", "virtual-cluster, plain-host"),
    _field("started_s", _REAL, "s", "seconds since the Unix epoch"),
    _field("ended_s", _REAL, "s", "seconds since the Unix epoch; null while it runs"),
    _field("scenario", _TEXT, "", "from the plan: truth"),
    _field("arm", _TEXT, "", "from the plan: truth"),
    _field("seed", pa.int64(), "", "from the plan; null where that cannot be read"),
    _field("valid", pa.bool_(), "", "whether it counts; null while it runs"),
    _field("outcome", _TEXT, "", "JSON object: how it ended"),
    _field("problems", _TEXT, "", "JSON list: what of it cannot be read"),
)

SUMMARIES = _schema(
    "summaries",
    _RUN,
    _field("component", _TEXT, "", "as in metrics"),
    _field("role", _TEXT, "", "the component without its rank"),
    _field("stage", _TEXT, "", "as in metrics"),
    _field("metric", _TEXT, "", "as in metrics"),
    _field("unit", _TEXT, "", "as in metrics"),
    _field("n", pa.int64(), "count", "samples that are finite numbers"),
    _field("missed", pa.int64(), "count", "samples that were missed (null)"),
    _field("mean", _REAL, "see unit", "mean of the n samples; null if there is none"),
    _field("m2", _REAL, "unit squared", "sum of squared differences from the mean: m2 / (n - 1) is the variance"),
    _field("min", _REAL, "see unit", "smallest sample"),
    _field("max", _REAL, "see unit", "largest sample"),
    _field("first_s", _REAL, "s", "wall time of the first row"),
    _field("last_s", _REAL, "s", "wall time of the last row"),
)

#: Tables kept as segments in a run's folder. The other two are made on request: runs from manifests, summaries from metrics.
TABLES: dict[str, pa.Schema] = {"events": EVENTS, "metrics": METRICS, "logs": LOGS, "injections": INJECTIONS}
VIEWS: dict[str, pa.Schema] = {**TABLES, "runs": RUNS, "summaries": SUMMARIES}
