"""One rollout worker's engine: its own copy of the policy, sampling in micro-batches, rewards from whoever scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.devices import device_of, half_precision, moved
from rlhf.errors import InferenceEngineError
from rlhf.generate import Completions, generate
from rlhf.policies import build_policy
from rlhf.prompts import text_of
from rlhf.task import completion_length, exact_match

Score = Callable[[list[str], list[str]], list[float]]


class RolloutEngine:
    """Samples completions with the weights last loaded (the initial ones until then: `version` -1)."""

    def __init__(self, config: JobConfig, rank: int):
        torch.set_num_threads(1)
        self.config = config
        self.rank = rank
        self.version = -1
        self.device = device_of(config, rank)
        self.model = build_policy(config).requires_grad_(requires_grad=False).to(self.device)
        self.text = text_of(config)

    def load_weights(self, tensors: dict[str, Tensor], version: int) -> None:
        """Replace all weights. Raises InferenceEngineError (UpdateWeightError), changing nothing, unless complete."""
        own = dict(self.model.named_parameters())
        for problem, names in (("missing", own.keys() - tensors.keys()), ("strange", tensors.keys() - own.keys())):
            if names:
                raise InferenceEngineError(
                    "UpdateWeightError", f"version {version}: {problem} weights {', '.join(sorted(names))}"
                )
        for name, parameter in own.items():
            if parameter.shape != tensors[name].shape:
                text = f"version {version}: {name} is {list(tensors[name].shape)}, expected {list(parameter.shape)}"
                raise InferenceEngineError("UpdateWeightError", text)
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
        self.version = version

    def generate(self, prompts: DistributedBatchMemory, step: int, score: Score, stream: int = 0) -> DistributedBatchMemory:
        """Sample `samples_per_prompt` completions of each prompt and have them scored (one call of `score` with all texts).

        The same seed, rank, step, stream, weights and prompts give the same samples; who samples more than one share of a
        step numbers them by `stream`. What torch raises for want of memory passes.
        """
        generator = torch.Generator().manual_seed(_stream(self.config.seed, self.rank, step, stream))
        size = self.config.rollout_microbatch_prompts
        parts = [
            self._sample(prompts.rows(slice(start, start + size)), generator) for start in range(0, max(len(prompts), 1), size)
        ]
        return self._scored(DistributedBatchMemory.concat(parts), score)

    def _sample(self, prompts: DistributedBatchMemory, generator: torch.Generator) -> DistributedBatchMemory:
        """Completions of one micro-batch of prompts, without rewards."""
        config = self.config
        rows = torch.arange(len(prompts)).repeat_interleave(config.samples_per_prompt)
        expanded = moved(prompts.rows(rows), self.device)
        ids, mask = expanded["prompt_ids"], expanded["prompt_mask"]
        new_tokens, reserve_bytes = completion_length(config), config.kv_cache_mib << 20
        with half_precision(self.device):
            done = generate(self.model, ids, mask, new_tokens, config.temperature, generator, reserve_bytes)
        return moved(DistributedBatchMemory({**_columns(ids, mask, done), "group_id": expanded["group_id"]}), "cpu")

    def _scored(self, samples: DistributedBatchMemory, score: Score) -> DistributedBatchMemory:
        """The samples with `rewards [m]` and `exact [m]`."""
        answers = self.text.completion_text(samples["input_ids"], samples["loss_mask"])
        asked = self.text.prompt_text(samples["input_ids"], samples["attention_mask"] - samples["loss_mask"])
        rewards = score(asked, answers)
        samples["rewards"] = torch.tensor(rewards, dtype=torch.float32)
        samples["exact"] = torch.tensor([float(exact_match(*pair)) for pair in zip(asked, answers, strict=True)])
        return samples


def _columns(prompt_ids: Tensor, prompt_mask: Tensor, done: Completions) -> dict[str, Tensor]:
    """Prompt and completion side by side. `logprobs` has one column less than `input_ids`: the first token has none."""
    attention_mask = torch.cat([prompt_mask, done.mask], dim=1)
    return {
        "input_ids": torch.cat([prompt_ids, done.ids], dim=1),
        "attention_mask": attention_mask,
        "loss_mask": torch.cat([torch.zeros_like(prompt_mask), done.mask], dim=1),
        "logprobs": torch.cat([done.logprobs.new_zeros(prompt_ids.shape[0], prompt_ids.shape[1] - 1), done.logprobs], dim=1),
        "seqlen": attention_mask.sum(dim=1),
    }


def _stream(*keys: int) -> int:
    """A seed for one stream of random numbers, unrelated to that of any other keys."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0])
