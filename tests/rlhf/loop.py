"""The engines of a job composed in one process, as its controller composes them."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.engines.reference import ReferenceEngine
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.prompts import sample_prompts
from rlhf.task import score


def rollouts(config: JobConfig, trainer: TrainEngine, steps: range) -> Iterator[tuple[int, DistributedBatchMemory]]:
    """Each step's batch, sampled with the weights the trainer has when it is asked for. Training is the caller's."""
    workers = [RolloutEngine(config, rank) for rank in range(config.rollout_workers)]
    reference = ReferenceEngine(config, 0)
    for step in steps:
        for worker in workers:
            worker.load_weights(dict(trainer.model.named_parameters()), step)
        shares = sample_prompts(config, step).split(len(workers))
        parts = [worker.generate(share, step, score) for worker, share in zip(workers, shares, strict=True)]
        batch = DistributedBatchMemory.concat(parts)
        batch["ref_logprobs"] = reference.compute_logprobs(batch)
        yield step, batch
