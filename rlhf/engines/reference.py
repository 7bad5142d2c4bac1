"""The frozen reference: the initial policy, asked how likely it finds what the trained one said."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.model import build_model, token_logprobs


class ReferenceEngine:
    """Log-probabilities under the initial policy."""

    def __init__(self, config: JobConfig, rank: int):
        torch.set_num_threads(1)
        self.config = config
        self.rank = rank
        self.model = build_model(config).requires_grad_(requires_grad=False)

    @torch.no_grad()
    def compute_logprobs(self, batch: DistributedBatchMemory) -> Tensor:
        """`[m, T - 1]` in nats, of `input_ids [m, T]` under `attention_mask`; empty for an empty batch."""
        ids = batch["input_ids"]
        if not len(batch):
            return torch.zeros(0, ids.shape[1] - 1)
        return token_logprobs(self.model, ids, batch["attention_mask"], self.config.temperature)
