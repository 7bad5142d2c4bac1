"""Full disks, kills and hostile run folders: what is lost is bounded, what is damaged is named, nothing crashes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import catalogue
from storage.encoding import Effort
from storage.folders import StoreFolder
from storage.layout import run_paths
from storage.manifest import RunState, end_manifest, start_manifest
from storage.merging import write_rows
from storage.reader import read_table
from storage.retention import collect_garbage
from storage.schemas import METRICS, VIEWS
from storage.truth import save_plan
from storage.writer import TableWriter
from tasks.logs import LogFilter, log_lines

ROOT = Path(__file__).resolve().parents[2]

FULL_DISK = """
import json, os, random, sys
from pathlib import Path
from storage.reader import read_table
from storage.schemas import METRICS
from storage.writer import TableWriteError, TableWriter
disk = Path(sys.argv[1])
(disk / "ballast").write_bytes(bytes(300_000))
writer, appended, told = TableWriter(disk / "metrics", METRICS, flush_s=3600), 0, []
dice = random.Random(1)
while not told:
    writer.append({"value": [dice.random() for _ in range(2000)]})
    appended += 2000
    try:
        writer.flush()
    except TableWriteError as error:
        told.append(error.strerror)
amid, problems = read_table(disk / "metrics", METRICS)
(disk / "ballast").unlink()
writer.close()
rows, after = read_table(disk / "metrics", METRICS)
print(json.dumps([appended, amid.num_rows, rows.num_rows, told, problems + after]))
"""


@pytest.mark.root
def test_a_full_disk_loses_nothing_that_was_there(tmp_path):
    """On a file system of 512 KiB earlier rows stay readable, one sentence says why, and with room again all rows are there."""
    words = ["unshare", "--mount", "sh", "-ec", 'mount -t tmpfs -o size=512k tmpfs "$1"; exec "$2" -c "$3" "$1"', "sh"]
    done = subprocess.run(
        [*words, str(tmp_path), sys.executable, FULL_DISK], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    appended, amid, rows, told, problems = json.loads(done.stdout)
    assert 0 < amid <= appended - 2000 and rows == appended and problems == []
    assert told == [f"cannot store {appended - amid} rows of table metrics: the disk is full; earlier segments are intact"]


READS_AND_ENDS = """
import os, sys
from pathlib import Path
from storage.reader import read_table
from storage.schemas import METRICS
from storage.writer import TableWriter
folder = Path(sys.argv[1])
with TableWriter(folder, METRICS) as writer:
    writer.append({"value": [0.5] * 2000})
before = set(os.listdir("/proc/self/task"))
rows, _ = read_table(folder, METRICS)
print(rows.num_rows, len(set(os.listdir("/proc/self/task")) - before))
"""


def test_reading_starts_no_thread_that_outlives_the_interpreter(tmp_path):
    """Whoever reads a table and ends leaves no thread of Arrow's with its bytes: one of them aborted the process at its end."""
    words = [sys.executable, "-c", READS_AND_ENDS, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "2000 0\n"


def test_a_store_is_given_no_bytes_of_pythons(tmp_path, monkeypatch):
    """What reaches a store's stream is in Arrow's own memory: its threads may let go of it when the interpreter has ended."""
    given = []

    class Stream:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            """Nothing is kept."""

        def write(self, data):
            given.append(data)

    folder = StoreFolder(f"file://{tmp_path}")
    monkeypatch.setattr(folder, "_store", SimpleNamespace(open_output_stream=lambda _: Stream()))
    write_rows(folder, METRICS.empty_table(), "w", range(1), 0, Effort.LIVE)
    plain = bytearray(b"plain")
    folder.write("x", plain)
    plain[:] = b"other"
    assert [type(data) for data in given] == [pa.Buffer] * 2 and given[1].to_pybytes() == b"plain"


STEADY = """
import sys, time
from pathlib import Path
from storage.schemas import METRICS
from storage.writer import TableWriter
writer = TableWriter(Path(sys.argv[1]), METRICS, flush_s=0.1)
print("begun", flush=True)
while True:
    writer.append({"mono_s": [time.monotonic()]})
    time.sleep(0.001)
"""


def test_a_kill_loses_at_most_the_last_interval(tmp_path):
    """Whatever was appended longer ago than the flush interval, and the moment a flush takes, is there after kill -9."""
    dice = random.Random(7)
    for turn in range(3):
        folder = tmp_path / str(turn)
        child = subprocess.Popen([sys.executable, "-c", STEADY, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "begun\n"
        deadline = time.monotonic() + 60
        while not read_table(folder, METRICS)[0].num_rows:
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.01)
        time.sleep(0.5 * dice.random())
        killed_s = time.monotonic()
        child.send_signal(signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL
        child.stdout.close()
        table, problems = read_table(folder, METRICS)
        assert problems == [] and killed_s - max(table["mono_s"].to_pylist()) < 0.1 + 5.0


def good_run(run_id: str) -> None:
    paths = run_paths(run_id).create()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    save_plan(paths, {"scenario": "plain", "arm": "control", "seed": 7, "faults": []})
    (paths.logs / "train0.log").write_text("2026-03-01 10:00:00.250 INFO train0: start to train, step: 3, epoch: 0\n")
    with TableWriter(paths.table("metrics"), METRICS, writer="w") as writer:
        writer.append({"metric": ["loss"] * 3, "component": ["train0"] * 3, "unit": ["ratio"] * 3, "value": [1.0, 2.0, 3.0]})
    end_manifest(paths, RunState.COMPLETED)


PLACES = [
    "manifest.json",
    "truth/plan.json",
    "job/logs/train0.log",
    "job/logs/train1.log",
    "tables/metrics/part-w-000001-00000000.parquet",
    "tables/metrics/part-w-000000-000009-7-00000000.parquet",
    "tables/metrics/x",
    "tables/logs",
    "tables/events/part-a-000000-00000000.parquet",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["running", "r2", "../x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*"ab", "state", "seed", "run_id", "schema_version"]), inner)
    ),
    max_leaves=8,
)
CONTENT = (
    st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 5000) | st.just(b"PAR1" * 9)
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(st.sampled_from(PLACES), CONTENT, min_size=1, max_size=4),
    kind=st.sampled_from(["file", "link", "folder"]),
)
def test_no_file_in_a_run_folder_breaks_another_run(files, kind, tmp_path_factory):
    """Whatever lies in one run's folder: every view answers, the other run's numbers stand, and gc does its work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTLINE_HOME", str(tmp_path_factory.mktemp("home")))
        good_run("r1")
        good_run("r2")
        for name, content in files.items():
            put(run_paths("r2").root / name, content, kind)
        for name in VIEWS:
            catalogue.query(f"SELECT * FROM {name}")
        answer = catalogue.query("SELECT sum(value), count(*) FROM metrics WHERE run_id = 'r1'")
        assert answer.rows == [(6.0, 3)]
        assert catalogue.query("SELECT sum(value) FROM metrics WHERE run_id = 'r2'").rows == [(6.0,)]
        assert all(problem.startswith("r2: ") for problem in answer.problems)
        assert any("metrics/" in name for name in files) == bool(answer.problems)
        assert [row.run_id for row in catalogue.list_runs() if row.valid] in (["r1"], ["r1", "r2"], ["r2", "r1"])
        for run_id in ("r1", "r2"):
            for line in log_lines(run_id, LogFilter()):
                assert line.raw() and line.told()
        assert collect_garbage("5")[0].problems == ()


def put(path: Path, content: bytes, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        path.unlink()
    if path.exists():
        return
    if kind == "link":
        path.symlink_to("/proc/self/environ")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(content)
