"""What the sampler costs the job: ``python bench/sampler_slowdown.py [--pairs 60] [--steps 10] [--hz 2]``.

One real job of 2+2 on a cluster of its own; turns of some steps, with the sampler and without, in the order on off off on. Off,
the sampler is held by SIGSTOP: it neither reads nor writes. A ratio is of one pair, so that an hour's mood of the machine falls
on both. Told are mean and median of all pairs with 95 % intervals, and the same of two turns that differ in nothing: the noise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.standing_job import StandingJob
from injection.place import Process
from rlhf.config import JobConfig
from storage.layout import RunPaths
from tasks.profiles import PROFILES

WARM_UP_STEPS = 20


def start_sampler(job: StandingJob, hz: float) -> Process:
    """The sampler as a run of the smoke profile has it, once it has written."""
    paths: RunPaths = job.paths
    sources = [name for name in PROFILES["smoke"].sources if name != "clock"]  # which wants a program on each host
    told = {
        "registry": paths.registry,
        "out": paths.table("metrics"),
        "addresses": paths.addresses,
        "checkpoints": paths.recover,
    }
    spec = {**{name: str(path) for name, path in told.items()}, "hz": hz, "sources": sources, "folders": [str(paths.job)]}
    (paths.truth / "sampler.json").write_text(json.dumps(spec))
    argv = [sys.executable, "-m", "telemetry.sampler", str(paths.truth / "sampler.json")]
    sampler = job.beside(argv, paths.lab_logs / "sampler.log")
    while not list(paths.table("metrics").glob("*.parquet")):
        if sampler.poll() is not None:
            raise SystemExit((paths.lab_logs / "sampler.log").read_text())
        time.sleep(0.1)
    return sampler


def seconds(job: StandingJob, sampler: Process, steps: int, *, on: bool) -> float:
    """How long some steps take, with the sampler or without."""
    sampler.signal(signal.SIGCONT if on else signal.SIGSTOP)
    time.sleep(0.2)  # the beats it missed are told at once, before the turn
    return job.turn(steps).wall_s


def told(name: str, ratios: Sequence[float]) -> None:
    """Mean (Student) and median (by rank) of ratios, in per cent above one."""
    logs, n = sorted(map(math.log, ratios)), len(ratios)
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(logs) / n**0.5
    rank = int(stats.binom.ppf(0.025, n, 0.5))
    mean = statistics.mean(logs)
    figures = [mean, mean - half, mean + half, statistics.median(logs), logs[rank], logs[n - 1 - rank]]
    print("{}: mean {:+.2f} % ({:+.2f} to {:+.2f}), median {:+.2f} % ({:+.2f} to {:+.2f}), n = {}".format(
        name, *(100 * (math.exp(figure) - 1) for figure in figures), n))  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=60)
    options.add_argument("--steps", type=int, default=10, help="steps a turn")
    options.add_argument("--hz", type=float, default=2.0)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        os.environ["FAULTLINE_HOME"] = home
        job = StandingJob(JobConfig(train_workers=2, rollout_workers=2, steps=100_000))
        try:
            job.first_step()
            sampler = start_sampler(job, asked.hz)
            job.turn(WARM_UP_STEPS)
            order = [True, False, False, True] * ((asked.pairs + 1) // 2)
            spent = [seconds(job, sampler, asked.steps, on=on) for on in order]
        finally:
            job.close()
    fours = [spent[at : at + 4] for at in range(0, len(spent), 4)]
    pairs = [pair for on_1, off_1, off_2, on_2 in fours for pair in ((on_1, off_1), (on_2, off_2))]
    step_s = statistics.median(off for _, off in pairs) / asked.steps
    print(f"load {os.getloadavg()[0]:.1f}; a step without: {step_s * 1e3:.1f} ms")
    told("sampler on / off", [on / off for on, off in pairs])
    told("off / off", [four[1] / four[2] for four in fours])
    told("on / on", [four[0] / four[3] for four in fours])


if __name__ == "__main__":
    main()
