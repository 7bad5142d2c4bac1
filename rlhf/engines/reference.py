"""The frozen reference: the initial policy, asked how likely it finds what the trained one said."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.devices import device_of, half_precision, moved
from rlhf.model import token_logprobs
from rlhf.policies import build_policy


class ReferenceEngine:
    """Log-probabilities under the initial policy."""

    def __init__(self, config: JobConfig, rank: int):
        torch.set_num_threads(1)
        self.config = config
        self.rank = rank
        self.device = device_of(config, rank)
        self.model = build_policy(config).requires_grad_(requires_grad=False).to(self.device)

    @torch.no_grad()
    def compute_logprobs(self, batch: DistributedBatchMemory) -> Tensor:
        """`[m, T - 1]` in nats, of `input_ids [m, T]` under `attention_mask`; empty for an empty batch."""
        ids = batch["input_ids"]
        if not len(batch):
            return torch.zeros(0, ids.shape[1] - 1)
        batch = moved(batch, self.device)
        with half_precision(self.device):
            logprobs = token_logprobs(self.model, batch["input_ids"], batch["attention_mask"], self.config.temperature)
        return logprobs.cpu()
