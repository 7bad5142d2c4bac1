"""Samples per second of the engines, composed in one process, against a plain loop of the same task, batch and thread.

    python bench/rlhf_loop.py [ROUNDS]

Both take turns, so that a busy machine slows both. The job itself, with its processes and wires: `bench/rlhf_job.py`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.plain_loop import plain
from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.engines.reference import ReferenceEngine
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.prompts import sample_prompts
from rlhf.task import score

STEPS_PER_TURN = 5


def engines(config: JobConfig) -> Callable[[int], None]:
    """One step of the engines as the controller composes them, without processes and wires."""
    trainer = TrainEngine(config, 0)
    trainer.initialize("", 0)
    workers = [RolloutEngine(config, rank) for rank in range(config.rollout_workers)]
    reference = ReferenceEngine(config, 0)

    def step(n: int) -> None:
        for worker in workers:
            worker.load_weights(trainer.shard(), n)
        shares = sample_prompts(config, n).split(len(workers))
        parts = [worker.generate(share, n, score) for worker, share in zip(workers, shares, strict=True)]
        batch = DistributedBatchMemory.concat(parts)
        batch["ref_logprobs"] = reference.compute_logprobs(batch)
        [share] = batch.chunk_by_ffd(config.samples_per_prompt, 1)
        trainer.train_batch(share, n)

    return step


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    config = JobConfig(train_workers=1)
    samples = config.prompts_per_step * config.samples_per_prompt * STEPS_PER_TURN
    loops = {"engines": engines(config), "plain": plain(config)}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds + 1):
        for name, step in loops.items():
            begin = time.perf_counter()
            for n in range(STEPS_PER_TURN):
                step(turn * STEPS_PER_TURN + n)
            rates[name].append(samples / (time.perf_counter() - begin))
    median = {name: statistics.median(values[1:]) for name, values in rates.items()}  # the first turn warms up
    for name, value in median.items():
        print(f"{name:8} {value:7.0f} samples/s (min {min(rates[name][1:]):.0f}, max {max(rates[name][1:]):.0f}, n={rounds})")
    print(f"engines / plain = {median['engines'] / median['plain']:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
