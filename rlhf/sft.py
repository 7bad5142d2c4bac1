"""Supervised fine-tuning on the right answers: the control workload, with the same model, batch shape and optimizer as GRPO."""

from __future__ import annotations

from dataclasses import replace

import torch

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.prompts import text_of
from rlhf.task import sample_digits


def right_answers(config: JobConfig, step: int) -> DistributedBatchMemory:
    """The examples of one step, as many as GRPO has samples, each of a prompt of its own; the same for seed and step."""
    size = config.prompts_per_step * config.samples_per_prompt
    digits = sample_digits(replace(config, prompts_per_step=size), step)
    text = text_of(config)
    prompts = text.encode(digits)
    answer_ids, answer_mask = text.encode_answers([each[::-1] for each in digits])
    mask = torch.cat([prompts["prompt_mask"], answer_mask], dim=1)
    return DistributedBatchMemory(
        {
            "input_ids": torch.cat([prompts["prompt_ids"], answer_ids], dim=1),
            "attention_mask": mask,
            "loss_mask": torch.cat([torch.zeros_like(prompts["prompt_mask"]), answer_mask], dim=1),
            "group_id": torch.arange(size) // config.samples_per_prompt,
            "seqlen": mask.sum(dim=1),
        }
    )
