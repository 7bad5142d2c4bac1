"""The controller's hand on the train workers."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import torch

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.errors import TrainEngineError
from rlhf.rpc import Reply
from rlhf.stats import StatsTracker
from rlhf.worker_group import WorkerGroup, wait_all
from storage.records import Role


class TrainController:
    """Uploads, trains and saves on all ranks."""

    def __init__(self, config: JobConfig, stats: StatsTracker):
        self._config = config
        self.group = WorkerGroup(Role.TRAIN, config, stats, TrainEngineError)

    def start(self) -> None:
        """Create the engines and let the ranks meet."""
        self.group.create_engines()
        meeting = self.group.ask_first("rendezvous", "InitializeError", self._config.timeout_s("init"))
        self.group.initialize(**meeting)

    def recover(self) -> int:
        """Have every rank take up the latest checkpoint; its step, -1 for none. Raises TrainEngineError when they differ."""
        replies = wait_all(self.group.call("recover", "RecoverError", self._config.timeout_s("init")))
        steps = [int(figures["step"]) for figures, _ in replies]
        if len(set(steps)) > 1:
            raise TrainEngineError("RecoverError", f"ranks took up checkpoints of different steps: {steps}")
        return steps[0]

    def upload_weights(self, version: int) -> list[Future[Reply]]:
        """Begin the upload of every rank's shard."""
        timeout_s = self._config.timeout_s("upload_weights") + self._config.timeout_s("rpc_grace")
        return self.group.call("upload_weights", "UploadWeightsError", timeout_s, version=version)

    def train_distributed_batch(self, batch: DistributedBatchMemory, step: int) -> dict[str, float]:
        """One training step over all ranks. The groups are those of the plan: a batch of another size is refused here."""
        config = self._config
        planned = torch.arange(config.prompts_per_step).repeat_interleave(config.samples_per_prompt)
        batch["group_id"] = planned
        shares = [share.state() for share in batch.chunk_by_ffd(config.samples_per_prompt, config.train_workers)]
        timeout_s = config.timeout_s("train_batch")
        replies = wait_all(self.group.call("train_batch", "TrainBatchError", timeout_s, shares, step=step))
        figures: dict[str, float] = replies[0][0]
        return {name: figures[name] for name in ("loss", "kl", "grad_norm")}

    def save(self, step: int, **kept: Any) -> None:
        """Have rank 0 write the latest checkpoint or, with `epoch`, one that is kept."""
        wait_all(self.group.call("save", "SaveError", self._config.timeout_s("save"), step=step, **kept))
