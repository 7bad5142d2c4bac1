"""Versions of tables: what an older program wrote is read, what a newer one wrote is refused, and the page tells both."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.catalogue import query
from storage.dictionary import dictionary
from storage.layout import run_paths
from storage.migrations import STEPS, migrate
from storage.reader import read_table
from storage.schemas import TABLES, VERSIONS, VIEWS
from storage.writer import TableWriter

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "tables-v1"
#: What is in the golden files, by one column of each table.
KNOWN = {
    "events": ("detail", ['{"a": 1}', '{"error": "é"}']),
    "metrics": ("value", [0.5, None, 1.25]),
    "logs": ("line", [1, 2, 7]),
    "injections": ("state", ["fired", "gone"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_files_of_version_1_are_read(name):
    """Segments written by the first version are read as today's tables, every row of them, with nothing invented."""
    table, problems = read_table(GOLDEN / name, TABLES[name])
    column, values = KNOWN[name]
    assert problems == [] and table.schema.equals(TABLES[name], check_metadata=True)
    assert table[column].to_pylist() == values
    if name == "logs":
        assert table["offset"].to_pylist() == table["size"].to_pylist() == [None] * 3


def test_metrics_of_version_2_are_read_as_fine_as_they_are():
    """A sampled rate of version 2 has 24 bits; read today it still has them, beside a missed one and a step's figure."""
    table, problems = read_table(GOLDEN.with_name("tables-v2") / "metrics", TABLES["metrics"])
    assert problems == [] and table["value"].to_pylist() == [0.10000000149011612, None, 0.30000001192092896]


def test_the_golden_files_are_of_version_1():
    """They say so themselves: nobody has written them anew."""
    for name in TABLES:
        (path,) = (GOLDEN / name).iterdir()
        assert pq.ParquetFile(path).metadata.metadata[b"schema_version"] == b"1"


def test_sql_sees_old_and_new_segments_together(tmp_path, monkeypatch):
    """In one table, segments of version 1 and of today are one view."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    folder = run_paths("r1").create().table("logs")
    shutil.copytree(GOLDEN / "logs", folder)
    with TableWriter(folder, TABLES["logs"]) as writer:
        writer.append({"line": [9], "offset": [100], "size": [20], "component": ["train0"]})
    answer = query('SELECT run_id, line, "offset" FROM logs ORDER BY line')
    assert answer.rows == [("r1", 1, None), ("r1", 2, None), ("r1", 7, None), ("r1", 9, 100)] and answer.problems == ()


def test_every_version_has_its_step():
    """From each version that ever was there is a way to today's, and none beyond it."""
    for name, schema in VIEWS.items():
        assert {version for table, version in STEPS if table == name} == set(range(1, VERSIONS[name]))
        assert migrate(schema.empty_table(), name, VERSIONS[name], VERSIONS[name]).schema == schema


def test_the_examples_of_the_page_are_sql_over_our_views(tmp_path, monkeypatch):
    """Each of the five questions of docs/querying.md is answered; in an empty home, by no rows."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    page = (ROOT / "docs" / "querying.md").read_text().split("## DuckDB, pandas")[0]
    examples = re.findall(r"```sql\n(.*?)```\n```text\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 5
    for sql, told in examples:
        assert query(sql).columns == tuple(told.splitlines()[0].split())


def test_the_data_dictionary_is_todays():
    """docs/tables.md is what the schemas say: `python -m storage.dictionary > docs/tables.md`."""
    assert (ROOT / "docs" / "tables.md").read_text() == dictionary()
