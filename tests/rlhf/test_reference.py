"""The reference engine."""

import torch

from rlhf.config import JobConfig
from rlhf.engines.reference import ReferenceEngine
from rlhf.engines.rollout import RolloutEngine
from rlhf.prompts import sample_prompts
from rlhf.task import score

CONFIG = JobConfig(seed=4, train_workers=1, prompts_per_step=4)


def test_before_training_reference_and_rollout_agree_and_an_empty_batch_has_empty_logprobs():
    """The reference is the initial policy: on its samples it finds the log-probabilities they were drawn with."""
    batch = RolloutEngine(CONFIG, 0).generate(sample_prompts(CONFIG, 0), 0, score)
    engine = ReferenceEngine(CONFIG, 0)
    mask = batch["loss_mask"][:, 1:]
    torch.testing.assert_close(engine.compute_logprobs(batch) * mask, batch["logprobs"], atol=2e-5, rtol=1e-4)
    assert engine.compute_logprobs(batch.rows(slice(0, 0))).shape == (0, 14)
