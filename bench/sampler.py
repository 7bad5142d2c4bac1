"""Cost of sampling, beside others: ``python bench/sampler.py [ours] [awake] [psutil] [exporters] [--seconds 40]``. Prints JSON.

48 sleeping processes are looked at once and ten times a second by

    ours       the real sampler program with its Parquet: alone, with the sources of a usual run, and with every one there is
               (`bench/job_around.py` makes what they look at). ``read_core_ratio`` is the part that reads, measured by reading
               in this process
    awake      the same, alone, on 48 that wake twenty times a second: what has not run costs less to look at
    psutil     a loop that asks psutil for the same figures of each process, `oneshot`, and stores nothing
    exporters  Prometheus' node-exporter and a process-exporter with a group a process, scraped as often; what Prometheus itself
               needs to store is not counted. They are looked for in the PATH

``core_ratio`` is CPU time (user and system, after start-up) per second, as a share of one core, by the kernel's clock of the
process, in nanoseconds. ``load_before`` says how busy the machine was: on a busy one all of it costs up to twice as much.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.job_around import job_around
from storage.reader import read_table
from storage.schemas import METRICS
from tasks.profiles import SOURCES as USUAL
from telemetry.process import split_stat
from telemetry.sampler import Sampler
from telemetry.spec import SOURCES, load_spec

PROCESSES = 48
RATES_HZ = (1.0, 10.0)
WAKES = """
import time
while True:
    time.sleep(0.05)
"""
ROOT = Path(__file__).resolve().parent.parent

PSUTIL_LOOP = """
import psutil, sys, time
processes = [psutil.Process(int(pid)) for pid in sys.argv[2:]]
due = time.monotonic()
while True:
    for one in processes:
        with one.oneshot():
            one.status(), one.cpu_times(), one.memory_info(), one.num_threads(), one.num_fds()
            one.num_ctx_switches(), one.io_counters()
    due += 1 / float(sys.argv[1])
    time.sleep(max(0.0, due - time.monotonic()))
"""


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("parts", nargs="*", choices=[[], "ours", "awake", "psutil", "exporters"])
    options.add_argument("--seconds", type=float, default=40.0)
    told = options.parse_args()
    sleepers = [subprocess.Popen(["sleep", "100000"]) for _ in range(PROCESSES)]
    runs: dict[str, object] = {"processes": PROCESSES, "seconds": told.seconds, "load_before": os.getloadavg()[0]}
    parts = {"ours": ours, "awake": awake, "psutil": psutil_loop, "exporters": exporters}
    try:
        for name in told.parts or parts:
            runs[name] = parts[name]([sleeper.pid for sleeper in sleepers], told.seconds)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
    print(json.dumps(runs, indent=2))


def ours(pids: list[int], seconds: float) -> dict[str, object]:
    runs: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        told = {"registry": str(registered(Path(folder), pids))}
        around = {**told, **job_around(Path(folder), [f"rollout{n}" for n in range(len(pids))], "rollouts")}
        for name, sources in (("processes", ()), ("usual", USUAL), ("all", tuple(SOURCES))):
            told = {**around, "sources": sources, "out": str(Path(folder) / name)}
            read_s = read_cost_s(told)
            runs[f"{name}_read_once_ms"] = round(read_s * 1e3, 3)
            for hz in RATES_HZ:
                runs[f"{name}_{hz:g}_hz"] = measure({**told, "out": f"{told['out']}{hz:g}", "hz": hz}, seconds, read_s * hz)
    return runs


def awake(_pids: list[int], seconds: float) -> dict[str, object]:
    wakers = [subprocess.Popen([sys.executable, "-S", "-c", WAKES]) for _ in range(PROCESSES)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            told = {"registry": str(registered(Path(folder), [waker.pid for waker in wakers])), "out": f"{folder}/awake"}
            read_s = read_cost_s(told)
            return {
                f"{hz:g}_hz": measure({**told, "out": f"{folder}/{hz:g}", "hz": hz}, seconds, read_s * hz) for hz in RATES_HZ
            }
    finally:
        for waker in wakers:
            waker.kill()
            waker.wait()


def registered(folder: Path, pids: list[int]) -> Path:
    """A registry of these processes."""
    registry = folder / "registry"
    registry.mkdir()
    for number, pid in enumerate(pids):
        register(registry, f"rollout{number}", pid)
    time.sleep(1.5)  # the folder's time settles, as it does in a running job
    return registry


def register(registry: Path, component: str, pid: int) -> None:
    fields = split_stat(Path(f"/proc/{pid}/stat").read_bytes())
    entry = {"component": component, "host": "rollouts", "pid": pid, "start_ticks": int(fields[19])}
    (registry / f"{component}.json").write_text(json.dumps(entry))


def read_cost_s(told: dict[str, object]) -> float:
    """CPU seconds of one reading of everything except the slow beat."""
    sampler = Sampler(load_spec(written(told)))
    sampler.sample(time.monotonic())
    before, turns = time.process_time(), 200
    for _ in range(turns):
        sampler.sample(time.monotonic())
    spent = time.process_time() - before
    sampler.close()
    return spent / turns


def written(told: dict[str, object]) -> Path:
    """The options as a file."""
    path = Path(f"{told['out']}.json")
    path.write_text(json.dumps(told))
    return path


def measure(told: dict[str, object], seconds: float, read_core_ratio: float) -> dict[str, float]:
    out = Path(str(told["out"]))
    sampler = subprocess.Popen([sys.executable, "-m", "telemetry.sampler", str(written(told))], cwd=ROOT)
    while not list(out.glob("*.parquet")):
        if sampler.poll() is not None:
            raise SystemExit(f"the sampler ended with {sampler.returncode}")
        time.sleep(0.1)
    children = Path(f"/proc/{sampler.pid}/task/{sampler.pid}/children").read_text()  # who ask disks for it
    ratio = core_ratio([sampler.pid, *map(int, children.split())], seconds)
    sampler.send_signal(signal.SIGTERM)
    sampler.wait(60)
    table, problems = read_table(out, METRICS)
    stored = sum(path.stat().st_size for path in out.glob("*.parquet"))
    return {
        "core_ratio": ratio,
        "read_core_ratio": round(read_core_ratio, 5),
        "samples": table.num_rows,
        "segments": len(list(out.glob("*.parquet"))),
        "bytes_per_sample": round(stored / table.num_rows, 2),
        "unreadable": len(problems),
    }


def psutil_loop(pids: list[int], seconds: float) -> dict[str, object]:
    runs: dict[str, object] = {}
    for hz in RATES_HZ:
        loop = subprocess.Popen([sys.executable, "-c", PSUTIL_LOOP, str(hz), *map(str, pids)])
        time.sleep(2.0)
        runs[f"{hz:g}_hz"] = core_ratio([loop.pid], seconds)
        loop.kill()
        loop.wait()
    return runs


def exporters(_pids: list[int], seconds: float) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        groups = Path(folder) / "groups.yml"
        groups.write_text('process_names:\n- name: "{{.PID}}"\n  comm: [sleep]\n')
        ports = [free_port(), free_port()]
        words = [
            ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{ports[0]}"],
            ["prometheus-process-exporter", f"-config.path={groups}", f"-web.listen-address=127.0.0.1:{ports[1]}"],
        ]
        lacking = [argv[0] for argv in words if not shutil.which(argv[0])]
        if lacking:
            return {"lacking": lacking}
        servers = [subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for argv in words]
        try:
            told = "".join(scraped(port) for port in ports)
            found = told.count('namedprocess_namegroup_num_procs{groupname="')
            runs: dict[str, object] = {"groups": found, "lines_a_scrape": told.count("\n")}
            for hz in RATES_HZ:
                runs[f"{hz:g}_hz"] = core_ratio([server.pid for server in servers], seconds, hz, lambda: [*map(scraped, ports)])
        finally:
            for server in servers:
                server.kill()
                server.wait()
    return runs


def scraped(port: int) -> str:
    """What an exporter answers, once it does."""
    deadline = time.monotonic() + 20
    while True:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            return str(answer.read().decode())
        if time.monotonic() > deadline:
            raise SystemExit(f"nobody answers at port {port}")
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def core_ratio(pids: list[int], seconds: float, hz: float = 1.0, act: Callable[[], object] = lambda: None) -> float:
    """CPU time of processes per second while ``act`` is called ``hz`` times a second."""
    before, began = sum(map(cpu_s, pids)), time.monotonic()
    due = began
    while time.monotonic() < began + seconds:
        act()
        due += 1 / hz
        time.sleep(max(0.0, due - time.monotonic()))
    return round((sum(map(cpu_s, pids)) - before) / (time.monotonic() - began), 5)


def cpu_s(pid: int) -> float:
    """CPU time of a process and its threads so far, by the kernel's clock of it (CPUCLOCK_SCHED)."""
    return time.clock_gettime(~pid << 3 | 2)


if __name__ == "__main__":
    main()
