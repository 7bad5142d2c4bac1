"""The controller's hand on the reference workers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.errors import RefEngineError
from rlhf.stats import StatsTracker
from rlhf.worker_group import WorkerGroup, wait_all
from storage.records import Role

NEEDED = ("input_ids", "attention_mask")


class ReferenceController:
    """Log-probabilities under the frozen policy, of however many samples there are."""

    def __init__(self, config: JobConfig, stats: StatsTracker):
        self._config = config
        self.group = WorkerGroup(Role.REFERENCE, config, stats, RefEngineError, events=False)

    def start(self) -> None:
        """Create the engines."""
        self.group.create_engines()
        self.group.initialize()

    def lost(self) -> list[str]:
        """Names of workers that answer nobody."""
        return self.group.lost()

    def retire(self, _: Sequence[str]) -> list[str]:
        """Nobody has to be started again with one of these."""
        return []

    def leave(self, component: str) -> bool:
        """The others can take the share of one that is left for lost."""
        return self.group.leave(component)

    def renew(self, restarted: set[str]) -> None:
        """Make the engines of workers that were started again. Theirs is the initial policy, never a checkpoint."""
        if ranks := self.group.ranks_of(restarted):
            self.group.hang_up(ranks)
            self.group.create_engines(ranks)
            self.group.initialize(ranks)

    def compute_logprobs(self, batch: DistributedBatchMemory, step: int) -> Tensor:
        """`[m, T - 1]` in nats."""
        asked, timeout_s = DistributedBatchMemory({key: batch[key] for key in NEEDED}), self._config.timeout_s("reference")
        self.group.wait_for_enough()
        ranks = self.group.online() or [*range(self._config.reference_workers)]
        shares = [share.state() for share in asked.split(len(ranks))]
        call = ("compute_logprobs", "ComputeLogpError", timeout_s, shares, ranks)
        replies = wait_all(self.group.call(*call, offline="move", step=step))
        return torch.cat([tensors["ref_logprobs"] for _, tensors in replies])
