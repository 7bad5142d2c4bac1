"""Arrow schemas of every table, in one place, with units and a schema version in their metadata."""

from __future__ import annotations

import pyarrow as pa

from storage.records import SCHEMA_VERSION


def _field(name: str, kind: pa.DataType, unit: str, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "meaning": meaning})


def _schema(table: str, *fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={"schema_version": str(SCHEMA_VERSION), "table": table})


_WALL = _field("wall_s", pa.float64(), "s", "seconds since the Unix epoch, clock of the recording host")
_MONO = _field("mono_s", pa.float64(), "s", "monotonic clock of the recording host")

EVENTS = _schema(
    "events",
    _WALL,
    _MONO,
    _field("component", pa.string(), "", "who announced it, e.g. controller, rollout1"),
    _field("kind", pa.string(), "", "stage, rpc, worker"),
    _field("step", pa.int32(), "", "training step, -1 before the first"),
    _field("stage", pa.string(), "", "closed vocabulary Stage"),
    _field("phase", pa.string(), "", "enter, exit, error"),
    _field("detail", pa.string(), "", "JSON object of further attributes"),
)

METRICS = _schema(
    "metrics",
    _WALL,
    _MONO,
    _field("host", pa.string(), "", "virtual host or machine"),
    _field("component", pa.string(), "", "process it belongs to; the host's name for host metrics"),
    _field("step", pa.int32(), "", "training step, -1 where it has none"),
    _field("stage", pa.string(), "", "stage, empty where it has none"),
    _field("metric", pa.string(), "", "name; its unit is the unit column"),
    _field("unit", pa.string(), "", "s, bytes, ratio, count, bytes/s, samples/s"),
    _field("value", pa.float64(), "see unit", "the sample; null = missed, never interpolated"),
)

LOGS = _schema(
    "logs",
    _WALL,
    _field("component", pa.string(), "", "whose log"),
    _field("line", pa.int32(), "", "line number in the raw log, from 1"),
    _field("level", pa.string(), "", "DEBUG, INFO, WARNING, ERROR, or empty for lines without one"),
    _field("message", pa.string(), "", "text after time and level"),
    _field("request_id", pa.string(), "", "request id, if the line carries one"),
    _field("step", pa.int32(), "", "step, -1 if the line tells none"),
    _field("stage", pa.string(), "", "stage, empty if the line tells none"),
)

INJECTIONS = _schema(
    "injections",
    _WALL,
    _MONO,
    _field("fault_id", pa.string(), "", "which fault of the plan"),
    _field("kind", pa.string(), "", "closed vocabulary FaultKind"),
    _field("target", pa.string(), "", "component or link"),
    _field("step", pa.int32(), "", "step of the trigger"),
    _field("stage", pa.string(), "", "stage of the trigger"),
    _field("state", pa.string(), "", "armed, fired, applied, verified, reverted, gone, expired, stuck, invalid"),
    _field("detail", pa.string(), "", "JSON object: receipt or reason"),
)

TABLES: dict[str, pa.Schema] = {"events": EVENTS, "metrics": METRICS, "logs": LOGS, "injections": INJECTIONS}
