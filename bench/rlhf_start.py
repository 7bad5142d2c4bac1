"""What the workers of a job cost: start of the job on a cluster that stands, memory a worker, and a killed engine's successor.

    python bench/rlhf_start.py [--train 2] [--rollout 2] [--shard-size 1] [--steps 5] [--runs 3]

"First step" is from the moment Ray answered with every virtual host (its `ray.json`) to the announcement of step 0, engines
made, initialized and met. Memory is proportional (PSS), after the steps: engines, the templates they were forked from and Ray's
actors, over the number of engines. "Listens again" is from SIGKILL to the registration of the successor, forked by the same
template, asked for at once: without the time in which a job notices.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.standing_job import StandingJob
from rlhf.config import JobConfig
from rlhf.host import Host
from rlhf.registry import forget, registered

#: What is counted as a worker's memory: command lines of engines and templates, and of Ray's actor that owns a template.
OWN, ACTOR = "rlhf.template", "ray::Host"
KILLS = 10


def pss_mib(job: StandingJob) -> tuple[float, float, int]:
    """Proportional MiB of engines and templates, of the actors, and how many engines there are."""
    parts = {OWN: 0.0, ACTOR: 0.0}
    templates = engines = 0
    for process in psutil.Process(job.pid).children(recursive=True):
        line = " ".join(process.cmdline())
        kind = next((word for word in parts if word in line), "")
        if kind:
            parts[kind] += process.memory_full_info().pss / (1 << 20)
            templates += kind == OWN and OWN not in " ".join(process.parent().cmdline())
            engines += kind == OWN
    return parts[OWN], parts[ACTOR], engines - templates


def run(config: JobConfig, steps: int) -> tuple[float, float]:
    """One job: seconds to the first step, and MiB a worker. Tells what it saw."""
    job = StandingJob(config)
    try:
        first = job.first_step()
        start_s = first - (job.paths.job / "ray.json").stat().st_mtime
        job.turn(2)
        turn = job.turn(steps)
        own, actors, engines = pss_mib(job)
        each = (own + actors) / engines
        wall_ms, cpu_ms = 1e3 * turn.wall_s / steps, 1e3 * turn.cpu_s / steps
        print(f"first step after {start_s:.2f} s; a step {wall_ms:.0f} ms, {cpu_ms:.0f} ms of a core")
        print(
            f"  {engines} engines: {own:.0f} MiB with templates, actors {actors:.0f} MiB, {each:.0f} MiB a worker", flush=True
        )
        return start_s, each
    finally:
        job.close()


def wait_for(what: Callable[[], object], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s} s")
        time.sleep(0.0005)


def killed_engines(folder: Path) -> list[float]:
    """Seconds from SIGKILL of an engine to its successor listening, again and again."""
    from adapters.native import free_ports
    from rlhf.topology import components, name_table

    config = JobConfig(train_workers=1, rollout_workers=1)
    for name in ("logs", "stats", "registry"):
        (folder / name).mkdir()
    config.save(folder / "config.json")
    table = name_table(config, lambda _: "127.0.0.1", free_ports(components(config)).__getitem__, host_of=lambda _: "localhost")
    (folder / "addresses.json").write_text(json.dumps(table))
    os.environ["JOB_DIR"] = str(folder)
    host, taken = Host(str(folder), "torch", {}), []
    try:
        host.start("rollout0")
        wait_for(lambda: registered("rollout0"))
        for _ in range(KILLS):
            begin, engine = time.monotonic(), registered("rollout0")
            assert engine is not None
            os.kill(engine.pid, signal.SIGKILL)
            wait_for(lambda: host.engines()["rollout0"]["exit_code"] is not None)
            forget("rollout0")
            host.start("rollout0")
            wait_for(lambda: registered("rollout0"))
            taken.append(time.monotonic() - begin)
    finally:
        host.close()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"train": 2, "rollout": 2, "shard-size": 1, "steps": 5, "runs": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    workers = {"train_workers": asked.train, "rollout_workers": asked.rollout, "shard_size": asked.shard_size}
    prompts = max(16, asked.train, asked.rollout)
    config = JobConfig(**workers, prompts_per_step=prompts, steps=100_000)
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        os.environ["FAULTLINE_HOME"] = home
        starts, sizes = zip(*(run(config, asked.steps) for _ in range(asked.runs)), strict=True)
        print(
            f"first step after {statistics.median(starts):.2f} s, {statistics.median(sizes):.0f} MiB a worker (n={asked.runs})"
        )
    with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp") as folder:
        taken = [1e3 * value for value in killed_engines(Path(folder))]
        print(f"a killed engine listens again after {statistics.median(taken):.0f} ms (longest {max(taken):.0f}, n={KILLS})")


if __name__ == "__main__":
    main()
