"""Tables: what is appended is read back, whatever happens to writer, file or disk."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.encoding import Effort, SegmentError, facts
from storage.folders import LocalFolder
from storage.merging import compact_table, write_rows
from storage.reader import each_segment, read_segment, read_table
from storage.schemas import METRICS, TABLES
from storage.writer import TableWriteError, TableWriter, _explain, next_number, remove_segments

ROOT = Path(__file__).resolve().parents[2]
FLOATS = st.floats(allow_nan=False, allow_subnormal=False) | st.none()
NAMES = st.text(max_size=3)
UNITS = st.sampled_from(["1/s", "bytes/s", "cores", "s"]) | NAMES
STEPS = st.just(-1) | st.integers(-1, 2**31 - 1)
ROWS = st.lists(st.tuples(FLOATS, FLOATS, NAMES, NAMES, STEPS, NAMES, NAMES, UNITS, FLOATS), max_size=6)


def metric_rows(values: list[float]) -> list[tuple]:
    return [(1.0 * n, 2.0 * n, "h", "train0", n, "train", "loss", "ratio", value) for n, value in enumerate(values)]


def stored(folder: Path, values: list[float], **kwargs) -> None:
    with TableWriter(folder, METRICS, **kwargs) as writer:
        writer.append(metric_rows(values))


def kept(row: tuple) -> tuple:
    """A row as exact as the table keeps it: clocks to 1/1024 s, values that are not whole to 24 bits, sampled rates to 13."""
    wall_s, mono_s, *rest, value = row
    clocks = [time if time is None or math.isinf(time * 1024) else round(time * 1024) / 1024 for time in (wall_s, mono_s)]
    for bits in (24, 13) if row[4] == -1 and row[7] in ("1/s", "bytes/s", "cores") else (24,):
        if value is not None and math.isfinite(value) and value != int(value):
            mantissa, exponent = math.frexp(abs(value))
            value = math.copysign(math.ldexp(math.floor(mantissa * 2**bits + 0.5), exponent - bits), value)
    return (*clocks, *rest, value)


def series(rows: list[tuple]) -> dict[tuple, list[tuple]]:
    """Rows by series, each in the order given."""
    found: dict[tuple, list[tuple]] = {}
    for row in rows:
        found.setdefault((*row[2:4], *row[5:8]), []).append(row)
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(ROWS, max_size=12), compact=st.booleans())
def test_rows_come_back_as_they_went_in(batches, compact, tmp_path_factory):
    """Any rows, in any number of batches, flushes and merges, come back with their nulls, each series in order."""
    folder = tmp_path_factory.mktemp("table")
    with TableWriter(folder, METRICS, flush_s=3600) as writer:
        for batch in batches:
            assert writer.append(batch) == len(batch)
            writer.flush()
    if compact:
        assert compact_table(folder, METRICS) == []
    table, problems = read_table(folder, METRICS)
    assert problems == [] and len(list(folder.iterdir())) <= 1
    told = series([tuple(row.values()) for row in table.to_pylist()])
    assert told == series([kept(row) for batch in batches for row in batch])
    assert table.schema.equals(METRICS, check_metadata=True)


def test_segments_carry_version_and_units(tmp_path):
    """A segment tells its table, its schema version and the unit of each column to any Parquet reader."""
    stored(tmp_path, [1.0])
    told = pq.ParquetFile(next(tmp_path.glob("part-*.parquet"))).metadata.metadata
    assert told[b"schema_version"] == b"3" and told[b"table"] == b"metrics"
    assert json.loads(told[b"units"])["wall_s"] == "s"


def test_what_is_merged_can_still_be_read(tmp_path, monkeypatch):
    """A file that a reader has just listed is there until its time is over, also when merged meanwhile; then it goes."""
    with TableWriter(tmp_path, METRICS, flush_s=3600) as writer:
        flush(writer, times=8)
        listed = sorted(tmp_path.iterdir())
        assert len(listed) == 9 and read_table(tmp_path, METRICS)[0].num_rows == 8
        monkeypatch.setattr("storage.writer._REPLACED_STAY_S", 0.0)
        flush(writer, times=1)
        assert [path.exists() for path in listed].count(True) == 1


def flush(writer, times):
    for turn in range(times):
        writer.append(metric_rows([float(turn)]))
        writer.flush()


def test_many_flushes_are_few_segments(tmp_path, monkeypatch):
    """A writer that flushes a hundred times leaves no more than a few files at any moment, and one in the end."""
    monkeypatch.setattr("storage.writer._REPLACED_STAY_S", 0.0)
    with TableWriter(tmp_path, METRICS, flush_s=3600) as writer:
        for turn in range(100):
            writer.append(metric_rows([float(turn)]))
            writer.flush()
            assert len(list(tmp_path.iterdir())) <= 7 * 3
            assert read_table(tmp_path, METRICS)[0].num_rows == turn + 1
    assert len(list(tmp_path.iterdir())) == 1


def test_large_flushes_become_few_segments_too(tmp_path):
    """Flushes of which eight are more than a segment needs to hold are merged as the writer goes, and no row is lost."""
    flushes, rows = 24, 13_000
    with TableWriter(tmp_path / "metrics", METRICS, flush_s=3600) as writer:
        for number in range(flushes):
            writer.append({"value": pa.array([float(number)] * rows)})
            writer.flush()
            counting, problems = each_segment(tmp_path / "metrics", lambda _, data: facts(data, METRICS)[1])
            assert problems == [] and sum(counting) == (number + 1) * rows
            small = [held for held in counting if held < 100_000]
            assert len(small) < 16
    table, _ = read_table(tmp_path / "metrics", METRICS)
    assert sorted(set(table["value"].to_pylist())) == [float(number) for number in range(flushes)]


def test_a_kill_amid_a_merge_counts_no_row_twice(tmp_path):
    """Merged and unmerged segments side by side: each row counts once, and from the others if the merged one is damaged."""
    folder = LocalFolder(tmp_path)
    for number in range(3):
        write_metrics(folder, [float(number)], "w", range(number, number + 1))
    merged = write_metrics(folder, [0.0, 1.0, 2.0], "w", range(3), generation=1)
    assert read_table(tmp_path, METRICS)[0]["value"].to_pylist() == [0.0, 1.0, 2.0]
    (tmp_path / merged.name).write_bytes(b"torn")
    table, problems = read_table(tmp_path, METRICS)
    assert table["value"].to_pylist() == [0.0, 1.0, 2.0] and len(problems) == 1


def test_what_is_lost_or_told_twice_is_named(tmp_path):
    """A gap in a writer's numbers is a lost file; merged segments that overlap are not both counted."""
    folder = LocalFolder(tmp_path)
    write_metrics(folder, [1.0], "w", range(2, 3))
    write_metrics(folder, [7.0, 8.0], "x", range(2), generation=1)
    write_metrics(folder, [8.0, 9.0], "x", range(1, 3), generation=1)
    table, problems = read_table(tmp_path, METRICS)
    assert sorted(table["value"].to_pylist()) == [1.0, 7.0, 8.0]
    told = " | ".join(problems)
    assert len(problems) == 2 and "segment(s) 0 to 1 of writer w are missing" in told and "holds rows that" in told


def test_compaction_keeps_rows_and_damage_and_settles(tmp_path):
    """Compacting twice is compacting once; what is damaged or foreign stays and stays named; leftovers of a kill go."""
    folder = LocalFolder(tmp_path)
    for number in range(12):
        write_metrics(folder, [float(number)] * 50, "w", range(number, number + 1))
    hurt = next(tmp_path.glob("part-w-000005-*"))
    hurt.write_bytes(b"torn")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".part-w-000099.tmp").write_bytes(b"half")
    before = read_table(tmp_path, METRICS)
    for _ in range(2):
        problems = compact_table(tmp_path, METRICS)
        files = sorted(path.name for path in tmp_path.iterdir())
        assert len(files) == 4 and hurt.name in files and "notes.txt" in files
        after = read_table(tmp_path, METRICS)
        assert after[0].equals(before[0]) and problems == after[1] == before[1]


def write_metrics(folder: LocalFolder, values: list[float], writer: str, numbers: range, generation: int = 0):
    rows = pa.Table.from_pylist([dict(zip(METRICS.names, row, strict=True)) for row in metric_rows(values)], METRICS)
    return write_rows(folder, rows, writer, numbers, generation, Effort.LIVE)


def test_a_restarted_writer_goes_on_and_never_overwrites(tmp_path):
    """Two writers of the same name, one after the other, keep each other's rows; only `remove_segments` takes them away."""
    stored(tmp_path, [1.0], writer="a")
    stored(tmp_path, [2.0], writer="a")
    stored(tmp_path, [3.0], writer="ab")
    assert next_number(tmp_path, "a") == 2
    remove_segments(tmp_path, "a")
    assert read_table(tmp_path, METRICS)[0]["value"].to_pylist() == [3.0]


@pytest.mark.parametrize(
    "rows",
    [{"nonsense": [1]}, {"value": [1.0], "step": [1, 2]}, {"step": ["one"]}, [(1, 2)], {"step": [2**31]}, {"value": ["x"]}],
)
def test_rows_that_do_not_fit_are_refused_at_once(rows, tmp_path):
    """A wrong column, length or type raises where it is appended, and the rows around it are stored."""
    with TableWriter(tmp_path, METRICS) as writer:
        writer.append(metric_rows([1.0]))
        with pytest.raises((ValueError, TypeError, OverflowError)):
            writer.append(rows)
        writer.append(metric_rows([2.0]))
    assert read_table(tmp_path, METRICS)[0]["value"].to_pylist() == [1.0, 2.0]


def test_rows_become_visible_without_anyone_asking(tmp_path):
    """The background flush makes rows visible while the writer sits idle."""
    with TableWriter(tmp_path, METRICS, flush_s=0.05) as writer:
        writer.append(metric_rows([1.0]))
        deadline = time.monotonic() + 60
        while read_table(tmp_path, METRICS)[0].num_rows == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)


CHILD = """
import os, sys
from pathlib import Path
from storage.schemas import METRICS
from storage.writer import TableWriter
writer, n = TableWriter(Path(sys.argv[1]), METRICS, flush_s=0.02), 0
while True:
    writer.append({"value": [float(n)], "component": [str(os.getpid())]})
    if n % 40 == 0:
        writer.flush()
        print(n, flush=True)
    n += 1
"""


def test_kill_9_leaves_every_flushed_row_and_nothing_torn(tmp_path):
    """Killed at random moments, amid flushes and merges, a writer leaves a gapless prefix that holds all it had flushed."""
    dice = random.Random(5)
    before = 0
    for turn in range(8):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        flushed = [int(child.stdout.readline()) for _ in range(1 + turn * 2)][-1]
        time.sleep(dice.random() * 0.03)
        child.send_signal(signal.SIGKILL)
        later = child.stdout.read().split()
        flushed = int(later[-1]) if later else flushed
        assert child.wait(30) == -signal.SIGKILL
        child.stdout.close()
        table, problems = read_table(tmp_path, METRICS)
        mine = [row["value"] for row in table.to_pylist() if row["component"] == str(child.pid)]
        assert problems == []
        assert sorted(mine) == [float(n) for n in range(len(mine))] and len(mine) > flushed
        assert table.num_rows == before + len(mine)
        before = table.num_rows


FULL = """
import resource, signal, sys
from pathlib import Path
from storage.schemas import METRICS
from storage.writer import TableWriteError, TableWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = TableWriter(Path(sys.argv[1]), METRICS, flush_s=3600)
writer.append({"value": [1.0]})
writer.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
writer.append({"value": [2.0]})
try:
    writer.flush()
except TableWriteError as error:
    print(error.strerror)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.close()
"""


def test_a_failed_write_says_so_keeps_the_rows_and_harms_nothing(tmp_path):
    """A write the kernel refuses raises one sentence, leaves no half file, and a later flush stores the rows."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == f"cannot store 1 rows of table {tmp_path.name}: File too large; earlier segments are intact"
    assert done.returncode == 0, done.stderr
    table, problems = read_table(tmp_path, METRICS)
    assert table["value"].to_pylist() == [1.0, 2.0] and problems == []
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_called_by_its_name(tmp_path, monkeypatch):
    """ENOSPC in the background reaches the next append as "the disk is full", and the rows are stored once there is room."""
    real, full = os.fsync, [True]

    def fsync(handle: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    writer = TableWriter(tmp_path, METRICS, flush_s=0.02)
    writer.append(metric_rows([1.0]))
    deadline = time.monotonic() + 60
    while not writer._failure:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(TableWriteError, match="the disk is full"):
        writer.append(metric_rows([]))
    full[0] = False
    writer.close()
    assert read_table(tmp_path, METRICS)[0]["value"].to_pylist() == [1.0]
    assert _explain(OSError(errno.EDQUOT, "x"), "metrics", 3).errno == errno.EDQUOT


def mutations(data: bytes) -> st.SearchStrategy[bytes]:
    place = st.integers(0, len(data) - 1)
    return st.one_of(
        place.map(lambda i: data[:i]),
        st.tuples(place, st.integers(1, 255)).map(lambda x: data[: x[0]] + bytes([data[x[0]] ^ x[1]]) + data[x[0] + 1 :]),
        st.tuples(place, st.binary(min_size=1, max_size=40)).map(lambda x: data[: x[0]] + x[1] + data[x[0] :]),
        st.binary(max_size=200).filter(lambda other: other != data),
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_an_altered_segment_is_named_and_never_a_number(data, tmp_path_factory):
    """Truncated, flipped, padded or replaced bytes: the file is named as a problem and the other rows are as they were."""
    folder = tmp_path_factory.mktemp("table")
    stored(folder, [1.0, 2.0], writer="good")
    stored(folder, [3.0], writer="bad")
    victim = next(folder.glob("part-bad-*.parquet"))
    original = victim.read_bytes()
    victim.write_bytes(data.draw(mutations(original).filter(lambda new: new != original)))
    table, problems = read_table(folder, METRICS)
    assert table["value"].to_pylist() == [1.0, 2.0]
    assert len(problems) == 1 and victim.name in problems[0]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_hostile_bytes_with_a_right_checksum_do_not_crash_the_reader(data, tmp_path_factory):
    """A file forged with a fitting checksum is a table of the schema or a SegmentError, nothing else."""
    folder = tmp_path_factory.mktemp("table")
    stored(folder, [3.0, None, 5.0], writer="seed")
    new = data.draw(mutations(next(folder.glob("part-*")).read_bytes()))
    forged = folder / f"part-forged-000000-{zlib.crc32(new):08x}.parquet"
    forged.write_bytes(new)
    with suppress(SegmentError):
        assert read_segment(folder, forged.name, METRICS).schema.equals(METRICS)


def forge(folder: LocalFolder, table: pa.Table, writer: str) -> None:
    """A file with a fitting name, written by any Parquet writer."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data = sink.getvalue().to_pybytes()
    folder.write(f"part-{writer}-000000-{zlib.crc32(data):08x}.parquet", data)


def test_strange_files_are_named_and_left_out(tmp_path):
    """Newer schema, another table, missing column, text, link, folder, pipe: each is named, none is waited for."""
    stored(tmp_path, [1.0])
    newer = METRICS.with_metadata({**METRICS.metadata, b"schema_version": b"4"}).empty_table()
    nameless = METRICS.with_metadata({**METRICS.metadata, b"table": b""}).empty_table()
    short = METRICS.remove(6).empty_table()
    folder = LocalFolder(tmp_path)
    for name, table in [("newer", newer), ("nameless", nameless), ("short", short), ("logs", TABLES["logs"].empty_table())]:
        forge(folder, table, name)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "part-l-0-00000000.parquet").symlink_to("/etc/passwd")
    (tmp_path / "part-d-0-00000000.parquet").mkdir()
    os.mkfifo(tmp_path / "part-p-0-00000000.parquet")
    (tmp_path / ".part-1-000001.tmp").write_bytes(b"half")
    table, problems = read_table(tmp_path, METRICS)
    assert table["value"].to_pylist() == [1.0]
    told = " | ".join(problems)
    for word in (
        "schema version 4",
        "table '', not 'metrics'",
        "table 'logs'",
        "column(s) metric missing",
        "notes.txt: foreign",
    ):
        assert word in told
    assert len(problems) == 8


def test_a_table_that_is_not_there_is_empty(tmp_path):
    """No folder, no rows, no problem."""
    table, problems = read_table(tmp_path / "none", METRICS)
    assert table.num_rows == 0 and problems == []
