"""Samples per second of the job, all stages of every step, beside a plain loop and TRL's trainer on the same task and batch.

    python bench/rlhf_job.py --trl PYTHON [--rounds 5] [--steps 20]

PYTHON is an interpreter with `bench/requirements-trl.txt` installed. Every loop is a process, or a job on a virtual cluster of
its own, that is held between its turns; a round is one turn of each, so ratios are of one round. One thread a process. The
machine should have nothing else to do. Last come the stages of a step, as the job itself has timed them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.standing_job import StandingJob
from bench.turns import Loop, Turn
from rlhf.config import JobConfig

BENCH = Path(__file__).resolve().parent
WARM_UP_STEPS = 10
STEPS_OF_A_JOB = 100_000
#: In the order of a step; those indented are part of the one above.
STAGES = """weights_update_step
rollout_step
  notify_rollout_start_event
  rollout_main
post_data_process
reference_step
train_step
  notify_train_start_event
  train_distributed_batch
  latest_recover_save
  notify_train_end_event
e2e""".splitlines()


def contestants(trl: str, kind: str) -> dict[str, Loop | StandingJob]:
    """Everyone who takes turns, by name; all are ready when this returns."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    found: dict[str, Loop | StandingJob] = {"plain": Loop([sys.executable, str(BENCH / "plain_loop.py")], env)}
    if trl:
        found["trl"] = Loop([trl, str(BENCH / "trl_loop.py")], env)
    for workers in (1, 2):
        config = JobConfig(train_workers=workers, rollout_workers=workers, steps=STEPS_OF_A_JOB)
        job = found[f"job {workers}+{workers}"] = StandingJob(config, kind)
        job.first_step()
    return found


def interval(values: Sequence[float]) -> str:
    """Mean and the 95 % interval of the mean (Student)."""
    mean, n = statistics.mean(values), len(values)
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5 if n > 1 else float("nan")
    return f"{mean:8.2f} ± {half:.2f}"


def tell(turns: dict[str, list[Turn]], samples: int) -> None:
    """Rates, processor time and ratios within rounds."""
    rates = {name: [samples / turn.wall_s for turn in own] for name, own in turns.items()}
    print(f"n = {len(next(iter(rates.values())))} rounds; mean ± 95 % interval")
    for name, own in turns.items():
        cpu = [1e3 * turn.cpu_s / samples for turn in own]
        print(f"{name:8} {interval(rates[name])} samples/s   {interval(cpu)} CPU ms a sample")
    for base in [name for name in ("plain", "trl") if name in rates]:
        for name in [name for name in rates if name != base]:
            ratios = [mine / its for mine, its in zip(rates[name], rates[base], strict=True)]
            print(f"{name:8} / {base:6} {interval(ratios)}")


def tell_stages(job: StandingJob) -> None:
    """Median milliseconds of every stage, after the warm-up, and of the calls it consists of."""
    steady = [line for line in job.stats("controller") if line["step"] >= WARM_UP_STEPS]
    for stage in STAGES:
        own = [1e3 * line["value"] for line in steady if line["metric"] == f"timeperf/{stage.strip()}"]
        print(f"  {stage:32} {statistics.median(own):8.2f} ms (n={len(own)})")
    calls: dict[str, list[float]] = {}
    for line in steady:
        if line["metric"].startswith("rpc/") and line["metric"].endswith("latency_s"):
            calls.setdefault(line["metric"].split("/")[1], []).append(1e3 * line["value"])
    for method, own in calls.items():
        print(f"  call {method:27} {statistics.median(own):8.2f} ms (n={len(own)})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", metavar="PYTHON", default="", help="an interpreter that has TRL; without one it is left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps a turn")
    parser.add_argument("--place", default="virtual-cluster")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        os.environ["FAULTLINE_HOME"] = home
        loops = contestants(asked.trl, asked.place)
        try:
            turns: dict[str, list[Turn]] = {name: [] for name in loops}
            for loop in loops.values():
                loop.turn(WARM_UP_STEPS)
            for _ in range(asked.rounds):
                for name, loop in loops.items():
                    turns[name].append(loop.turn(asked.steps))
            config = JobConfig()
            tell(turns, asked.steps * config.prompts_per_step * config.samples_per_prompt)
            for name, loop in loops.items():
                if isinstance(loop, StandingJob):
                    print(f"{name}, a step:")
                    tell_stages(loop)
        finally:
            for loop in loops.values():
                loop.close()


if __name__ == "__main__":
    main()
