"""Cost of sampling: ``python bench/sampler.py [--seconds 20]``. Prints one JSON object.

Starts 48 sleeping processes and samples them at 1 Hz and 10 Hz with the real sampler program, without and with its further
sources (``all``; of a job's links there are none here). ``core_ratio`` is the CPU time of
the sampler (user and system, after start-up) per second, as a share of one core; ``read_core_ratio`` is the part that reads
/proc, measured by reading in this process. ``bytes_per_sample`` is what the Parquet files take.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from storage.reader import read_table
from storage.schemas import METRICS
from telemetry.process import TICKS_PER_S, split_stat
from telemetry.sampler import Sampler
from telemetry.spec import SOURCES, SamplerSpec

PROCESSES = 48


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=20.0)
    seconds = options.parse_args().seconds
    sleepers = [subprocess.Popen(["sleep", "100000"]) for _ in range(PROCESSES)]
    runs: dict[str, object] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            registry = Path(folder) / "registry"
            registry.mkdir()
            for number, sleeper in enumerate(sleepers):
                register(registry, f"rollout{number}", sleeper.pid)
            time.sleep(1.5)  # the registry's folder time settles, as it does in a running job
            for name, sources in (("processes", ()), ("all", tuple(SOURCES))):
                read_s = read_cost_s(registry, Path(folder), sources)
                runs[f"{name}_read_once_ms"] = round(read_s * 1e3, 3)
                for hz in (1.0, 10.0):
                    out = Path(folder) / f"{name}{hz:g}"
                    runs[f"{name}_{hz:g}_hz"] = measure(registry, out, hz, seconds, read_s, sources)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
    print(json.dumps({"processes": PROCESSES, **runs}, indent=2))


def register(registry: Path, component: str, pid: int) -> None:
    fields = split_stat(Path(f"/proc/{pid}/stat").read_bytes())
    entry = {"component": component, "host": "rollouts", "pid": pid, "start_ticks": int(fields[19])}
    (registry / f"{component}.json").write_text(json.dumps(entry))


def read_cost_s(registry: Path, out: Path, sources: tuple[str, ...]) -> float:
    """CPU seconds of one reading of everything except the slow beat."""
    sampler = Sampler(SamplerSpec(registry, out, sources=sources, folders=(out,)))
    sampler.sample(time.time(), time.monotonic())
    before, turns = time.process_time(), 200
    for _ in range(turns):
        sampler.sample(time.time(), time.monotonic())
    return (time.process_time() - before) / turns


def cpu_s(pid: int) -> float:
    fields = split_stat(Path(f"/proc/{pid}/stat").read_bytes())
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def measure(registry: Path, out: Path, hz: float, seconds: float, read_s: float, sources: tuple[str, ...]) -> dict[str, float]:
    spec = out.with_suffix(".json")
    folders = [str(registry)]
    spec.write_text(json.dumps({"registry": str(registry), "out": str(out), "hz": hz, "sources": sources, "folders": folders}))
    root = Path(__file__).resolve().parent.parent
    sampler = subprocess.Popen([sys.executable, "-m", "telemetry.sampler", str(spec)], cwd=root, env=dict(os.environ))
    while not list(out.glob("*.parquet")):
        if sampler.poll() is not None:
            raise SystemExit(f"the sampler ended with {sampler.returncode}")
        time.sleep(0.1)
    before, began = cpu_s(sampler.pid), time.monotonic()
    time.sleep(seconds)
    used, span = cpu_s(sampler.pid) - before, time.monotonic() - began
    sampler.send_signal(signal.SIGTERM)
    sampler.wait(60)
    table, problems = read_table(out, METRICS)
    stored = sum(path.stat().st_size for path in out.glob("*.parquet"))
    return {
        "core_ratio": round(used / span, 5),
        "read_core_ratio": round(read_s * hz, 5),
        "samples": table.num_rows,
        "segments": len(list(out.glob("*.parquet"))),
        "bytes_per_sample": round(stored / table.num_rows, 2),
        "unreadable": len(problems),
    }


if __name__ == "__main__":
    main()
