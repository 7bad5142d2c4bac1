"""The data dictionary, made from the schemas: ``python -m storage.dictionary > docs/tables.md``."""

from __future__ import annotations

import sys

import pyarrow as pa

from storage.encoding import SERIES, in_memory, today
from storage.migrations import STEPS
from storage.schemas import TABLES, VIEWS

_HEAD = """# Tables: every column, its unit and what it means

Made from `storage/schemas.py` by `python -m storage.dictionary`; a test holds that the two agree.

events, metrics, logs and injections lie in `runs/<id>/tables/<table>/` as Parquet (zstd). runs and summaries are made when
asked for: runs from the manifests and plans, summaries from the metrics. In SQL each table is a view with `run_id` in front.
The footer of each file tells `table`, `schema_version` and `units`. What each metric means is in [metrics.md](metrics.md), how
to ask in [querying.md](querying.md), what storing costs in [storage.md](storage.md).
"""


def dictionary() -> str:
    """The page."""
    return "\n".join([_HEAD, *(_section(name, schema) for name, schema in VIEWS.items())])


def _section(name: str, schema: pa.Schema) -> str:
    head = ["| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
    lines = [_line(field, schema) for field in schema]
    return "\n".join([f"## {name} (version {today(schema)})", "", *_history(name), *head, *lines, ""])


def _line(field: pa.Field, schema: pa.Schema) -> str:
    unit, meaning = (field.metadata[key].decode() for key in (b"unit", b"meaning"))
    return f"| `{field.name}` | {_kind(field, schema)} | {unit} | {meaning} |"


def _history(name: str) -> list[str]:
    steps = {version: step.__doc__ or "" for (table, version), step in STEPS.items() if table == name}
    told = [f"Before version {version + 1}: {text.strip()}" for version, text in sorted(steps.items())]
    if name in SERIES:
        told.append(
            f"A series is a {', '.join(SERIES[name])}; merged segments hold each series together, in the order written."
        )
    return [*told, ""] if told else []


def _kind(field: pa.Field, schema: pa.Schema) -> str:
    repeats = schema.metadata[b"table"].decode() in TABLES and pa.types.is_dictionary(in_memory(schema).field(field.name).type)
    return "string, dictionary" if repeats else str(field.type)


if __name__ == "__main__":
    sys.stdout.write(dictionary())
