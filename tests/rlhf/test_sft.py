"""Supervised fine-tuning, the control workload: the same engine, model and batch, no rollouts."""

from __future__ import annotations

import pytest
import torch

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.model import token_logprobs
from rlhf.prompts import completion_text, prompt_text, sample_prompts
from rlhf.sft import right_answers
from rlhf.task import score

CONFIG = JobConfig(workload="sft", train_workers=1, rollout_workers=0, reference_workers=0)


def started(config: JobConfig = CONFIG) -> TrainEngine:
    engine = TrainEngine(config, 0)
    engine.initialize("", 0)
    return engine


def test_examples_are_right_answers_of_distinct_prompts_in_the_shape_of_rollouts():
    """As many rows as GRPO has samples, in the same columns and groups; every answer is right; steps differ, repeats do not."""
    batch = right_answers(CONFIG, 0)
    asked = prompt_text(batch["input_ids"], batch["attention_mask"] - batch["loss_mask"])
    answered = completion_text(batch["input_ids"], batch["loss_mask"])
    assert len(batch) == CONFIG.prompts_per_step * CONFIG.samples_per_prompt
    assert score(asked, answered) == [1.0] * len(batch)
    assert len(set(asked)) > 0.9 * len(batch)
    assert batch.chunk_by_ffd(CONFIG.samples_per_prompt, 4)[3]["group_id"].unique().numel() == 4
    assert torch.equal(batch["input_ids"], right_answers(CONFIG, 0)["input_ids"])
    assert not torch.equal(batch["input_ids"], right_answers(CONFIG, 1)["input_ids"])
    grpo = JobConfig(train_workers=1)
    rolled = RolloutEngine(grpo, 0).generate(sample_prompts(grpo, 0), 0, score)
    assert {key: (batch[key].shape, batch[key].dtype) for key in batch} == {
        key: (rolled[key].shape, rolled[key].dtype) for key in batch
    }


def test_the_loss_is_the_cross_entropy_of_the_answers_tokens():
    """Mean over samples of the mean negative log-likelihood of answer and end; prompts and padding count for nothing."""
    engine, batch = started(), right_answers(CONFIG, 0)
    with torch.no_grad():
        logprobs = token_logprobs(engine.model, batch["input_ids"], batch["attention_mask"], 1.0)
    rows = [-logprobs[n][batch["loss_mask"][n, 1:].bool()].mean() for n in range(len(batch))]
    first = JobConfig(workload="sft", train_workers=1, rollout_workers=0, reference_workers=0, inner_epochs=1)
    figures = started(first).train_batch(batch, 0)
    assert figures["loss"] == pytest.approx(float(torch.stack(rows).mean()), rel=1e-4)
    assert figures["kl"] == 0.0 and figures["samples"] == len(batch)


def test_it_learns_the_task():
    """The policy that was shown right answers gives them: nine of ten sampled answers are exact within 200 steps."""
    engine = started()
    grpo = JobConfig(train_workers=1, rollout_workers=1)
    rollout = RolloutEngine(grpo, 0)
    for step in range(200):
        engine.train_batch(right_answers(CONFIG, step), step)
        if step % 20 == 19:
            rollout.load_weights(engine.shard(), step)
            exact = float(rollout.generate(sample_prompts(grpo, step), step, score)["exact"].mean())
            if exact > 0.9:
                break
    assert exact > 0.9


def test_a_batch_without_rewards_is_enough():
    """The workload asks for no column that only rollouts have."""
    batch = right_answers(CONFIG, 0)
    needed = ("input_ids", "attention_mask", "loss_mask")
    figures = started().train_batch(DistributedBatchMemory({key: batch[key] for key in needed}), 0)
    assert figures["loss"] > 0


@pytest.mark.parametrize("workers", [{"rollout_workers": 1, "reference_workers": 0}, {"rollout_workers": 0}])
def test_workers_without_work_are_refused(workers: dict[str, int]):
    """A supervised job with rollout or reference workers is a mistake, and said to be one."""
    with pytest.raises(ValueError, match=r"^workload sft has no rollouts and no reference"):
        JobConfig(workload="sft", **workers)
