"""The job learns."""

import pytest
import torch

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.engines.reference import ReferenceEngine
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.prompts import sample_prompts
from rlhf.task import score


@pytest.mark.job
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_exact_match_of_the_last_20_steps_exceeds_09_within_200_steps(seed: int):
    """From random weights, by its rewards alone, the policy reverses digits: the engines as they are, in one process."""
    config = JobConfig(seed=seed, train_workers=1)
    trainer = TrainEngine(config, 0)
    trainer.initialize("", 0)
    workers = [RolloutEngine(config, rank) for rank in range(config.rollout_workers)]
    reference = ReferenceEngine(config, 0)
    exact: list[float] = []
    for step in range(200):
        for worker in workers:
            worker.load_weights(trainer.shard(), step)
        shares = sample_prompts(config, step).split(len(workers))
        parts = [worker.generate(share, step, score) for worker, share in zip(workers, shares, strict=True)]
        batch = DistributedBatchMemory.concat(parts)
        batch["ref_logprobs"] = reference.compute_logprobs(batch)
        [share] = batch.chunk_by_ffd(config.samples_per_prompt, 1)
        figures = trainer.train_batch(share, step)
        assert all(torch.isfinite(torch.tensor(list(figures.values()))))
        exact.append(float(batch["exact"].mean()))
        if step >= 20 and sum(exact[-20:]) / 20 > 0.9:
            break
    assert exact[0] < 0.05
    assert sum(exact[-20:]) / 20 > 0.9, exact[-20:]
