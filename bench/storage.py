"""What storing and asking costs: ``python bench/storage.py [write] [size] [query]``. Prints one JSON object.

    write   samples a second that one core turns from memory into durable segments, beside pyarrow with its defaults and CSV
    size    bytes a stored sample of runs of this home, as collected and after compaction, beside the same rows as pyarrow's
            defaults write them, as gzipped CSV, and as segments of one flush each
    query   mean and sd by stage, role and metric over 1,000 runs and 10^8 samples made up for it, in a new process whose files
            are not in the page cache; the same from the raw rows; opening one run

Ratios are within one run of this program; times are CPU seconds of this process where it says core, else wall time.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from storage.catalogue import run_ids_here
from storage.encoding import decode, encode
from storage.layout import run_paths
from storage.manifest import RunState, end_manifest, start_manifest
from storage.merging import compact_table
from storage.reader import each_segment
from storage.schemas import METRICS
from storage.writer import TableWriter

SERIES = 600
#: Of the 600 series a third never changes, a third are counts, a third are measured; as in a real run.
RUNS, RUN_ROWS = 1000, 100_000


def rows(count: int, seed: int) -> dict[str, pa.Array]:
    """Samples of 600 series at 2 Hz, as Arrow columns."""
    dice = np.random.default_rng(seed)
    series = np.tile(np.arange(SERIES, dtype=np.int32), count // SERIES + 1)[:count]
    beat = np.repeat(np.arange(count // SERIES + 1), SERIES)[:count]
    wall_s = 1.76e9 + beat * 0.5 + dice.random(count // SERIES + 1)[beat] * 0.01
    walk = np.cumsum(dice.normal(size=count)) + 1000
    value = np.choose(series % 3, [series.astype(float), np.floor(walk), walk])
    names = {"host": ("host", 200), "component": ("train", 12), "metric": ("metric", 1), "unit": ("unit", 100)}
    columns = {name: _texts(text, series // each) for name, (text, each) in names.items()}
    columns["stage"] = _texts("stage", series % 8)
    step = pa.array((beat // 20).astype(np.int32))
    clocks = {"wall_s": pa.array(wall_s), "mono_s": pa.array(wall_s - 1.7e9)}
    return {**clocks, **columns, "step": step, "value": pa.array(value)}


def _texts(text: str, numbers: np.ndarray[Any, Any]) -> pa.DictionaryArray:
    known = pa.array([f"{text}{n}" for n in range(int(numbers.max()) + 1)])
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32)), known)


def write_speed(count: int = 4_000_000) -> dict[str, Any]:
    pa.set_cpu_count(1)
    columns = rows(count, 1)
    table = pa.table({name: columns[name] for name in METRICS.names})
    few = table.slice(0, count // 20)

    def ours(folder: Path) -> None:
        with TableWriter(folder, METRICS, flush_s=3600, flush_rows=count // 8) as writer:
            for start in range(0, count, count // 8):
                writer.append({name: column.slice(start, count // 8) for name, column in columns.items()})

    speeds = {
        "faultline": count / _core_s(ours),
        "pyarrow_defaults": count / _core_s(lambda to: pq.write_table(table, to / "x.parquet")),
    }
    speeds["csv"] = len(few) / _core_s(lambda to: _csv(few, to / "x.csv"))
    return {f"{name}_samples_per_core_s": round(speed) for name, speed in speeds.items()}


def _core_s(act: Callable[[Path], None]) -> float:
    """The least CPU seconds of three goes, fsync's waiting not among them."""
    spent = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            act(Path(folder))
            spent.append(time.process_time() - began)
    return min(spent)


def _csv(table: pa.Table, path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))


def sizes() -> dict[str, Any]:
    """Per run of this home: its rows written as a run writes them (a flush every two seconds), compacted, and by others."""
    return {run_id: size_of_run(run_id) for run_id in run_ids_here()}


def size_of_run(run_id: str) -> dict[str, float]:
    found, _ = each_segment(run_paths(run_id).table("metrics"), lambda one, data: (one.writer, decode(data, METRICS)))
    writers = {name: pa.concat_tables([rows for writer, rows in found if writer == name]) for name in {one for one, _ in found}}
    table = pa.concat_tables(writers.values())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "metrics"
        flushes = sum(_write(folder, rows.sort_by("wall_s"), writer) for writer, rows in writers.items())
        closed = _bytes(folder)
        compact_table(folder, METRICS)
        kept = _bytes(folder)
    sink, text = io.BytesIO(), io.StringIO()
    pq.write_table(table.replace_schema_metadata(None), sink)
    csv.writer(text).writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))
    per = {"one_file_a_flush": flushes, "as_collected": closed, "compacted": kept, "pyarrow_defaults": sink.tell()}
    per["csv_gzip"] = len(gzip.compress(text.getvalue().encode()))
    span_s = (max(table["wall_s"].to_pylist()) - min(table["wall_s"].to_pylist())) if len(table) else 0
    return {
        "samples": len(table),
        "seconds": round(span_s),
        **{key: round(size / max(1, len(table)), 2) for key, size in per.items()},
    }


def _write(folder: Path, table: pa.Table, writer: str) -> int:
    """As a run does it: the sampler flushes every two seconds, what is collected is written at once. Returns the bytes of all
    flushes, had they stayed files of their own.
    """
    times = np.array(table["wall_s"].to_pylist())
    cuts = np.unique(np.floor((times - times[0]) / 2.0), return_index=True)[1].tolist()
    if writer != "sampler":
        with TableWriter(folder, METRICS, flush_s=3600, writer=writer) as out:
            out.append({name: table[name].to_pylist() for name in METRICS.names})
        return sum(path.stat().st_size for path in folder.glob(f"part-{writer}-*"))
    alone = 0
    with TableWriter(folder, METRICS, flush_s=3600, writer=writer) as out:
        for start, end in zip(cuts, [*cuts[1:], len(table)], strict=True):
            out.append({name: table[name].slice(start, end - start).to_pylist() for name in METRICS.names})
            out.flush()
            rows = table.slice(start, end - start).cast(METRICS)
            alone += len(encode(rows))
    return alone


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


ASK = """
import time; began = time.perf_counter()
import sys; sys.path.insert(0, {root!r})
from storage.catalogue import open_run, pooled, query
{act}
print(time.perf_counter() - began)
"""
ROLE = "regexp_replace(component, '[0-9]+$', '')"
RAW = f"""query("SELECT stage, {ROLE} AS role, metric, avg(value), stddev(value) FROM metrics GROUP BY ALL")"""
OPEN = """began = time.perf_counter(); open_run("r0000")"""
ONE = f"""{OPEN}; query("SELECT count(*), max(wall_s) FROM metrics", ["r0000"])"""


def query_speed() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as home:
        os.environ["FAULTLINE_HOME"] = home
        made_s = _timed(_make_runs)
        root = str(Path(__file__).resolve().parent.parent)
        found = {
            "runs": RUNS,
            "samples": RUNS * RUN_ROWS,
            "bytes": sum(p.stat().st_size for p in Path(home).rglob("*.parquet")),
            "making_s": made_s,
        }
        acts = {
            "first_time_s": "pooled()",
            "pooled_cold_s": "pooled()",
            "raw_cold_s": RAW,
            "open_one_cold_s": OPEN,
            "open_and_query_one_cold_s": ONE,
        }
        for name, act in acts.items():
            spent = []
            for _ in range(1 if name in ("first_time_s", "raw_cold_s") else 5):
                _forget(Path(home))
                done = subprocess.run(
                    [sys.executable, "-c", ASK.format(root=root, act=act)], capture_output=True, text=True, check=True
                )
                spent.append(float(done.stdout))
            found[name] = round(sorted(spent)[len(spent) // 2], 3)
        return found


def _timed(act: Callable[[], None]) -> float:
    began = time.perf_counter()
    act()
    return round(time.perf_counter() - began, 1)


def _make_runs() -> None:
    columns = rows(RUN_ROWS, 2)
    for number in range(RUNS):
        paths = run_paths(f"r{number:04d}").create()
        start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
        end_manifest(paths, RunState.COMPLETED)
        shifted = pa.array(columns["value"].to_numpy() + number)
        with TableWriter(paths.table("metrics"), METRICS, flush_s=3600) as writer:
            writer.append({**columns, "value": shifted})


def _forget(home: Path) -> None:
    """Drop the files from the page cache, so that they are read from the disk."""
    os.sync()
    for path in home.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def main() -> None:
    parts = {"write": write_speed, "size": sizes, "query": query_speed}
    wanted = sys.argv[1:] or list(parts)
    print(json.dumps({name: parts[name]() for name in wanted}, indent=2))


if __name__ == "__main__":
    main()
