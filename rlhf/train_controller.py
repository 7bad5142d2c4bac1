"""The controller's hand on the train workers."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import torch

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.errors import TrainEngineError
from rlhf.links import job_dir
from rlhf.recover import LATEST, RESCUE
from rlhf.rpc import Reply
from rlhf.stats import StatsTracker
from rlhf.worker_group import WorkerGroup, wait_all
from storage.records import Role

logger = logging.getLogger(__name__)


class TrainController:
    """Uploads, trains and saves on all ranks. ``trained`` is the step after which their state is; -1 is the initial one."""

    def __init__(self, config: JobConfig, stats: StatsTracker):
        self._config = config
        self.group = WorkerGroup(Role.TRAIN, config, stats, TrainEngineError)
        self.trained = -1
        #: From where workers that are started again take their state, by default; empty for their initial one.
        self._source = ""
        self._rescued = False

    def start(self) -> None:
        """Create the engines and let the ranks meet; then go on where an earlier run stopped, if asked to."""
        self._meet()
        if self._config.recover_mode == "auto":
            self._source = self._config.recover_from
            self.trained = self._take_up(self._source)

    def lost(self) -> list[str]:
        """Names of workers that answer nobody."""
        return self.group.lost()

    def retire(self, lost: Sequence[str]) -> list[str]:
        """Who must be started again because some were: all the others, since ranks that have lost one can train no more.

        Before that one of them puts down the state that the step began with, or that it ended with if it did. Where nobody
        has the whole of it (sharded, or all are lost) there is the latest checkpoint of this run. What was put down before, for
        workers that were lost again before they had taken it up, still is that state.
        """
        left = [rank for rank, name in enumerate(self.group.names) if name not in lost]
        if len(left) == len(self.group.names):
            return []
        self._rescued = self._rescued or (self._config.shard_size == 1 and any(map(self._rescue, left)))
        return [self.group.names[rank] for rank in left]

    def leave(self, _: str) -> bool:
        """Nobody: ranks wait for one another."""
        return False

    def renew(self, restarted: set[str]) -> None:
        """Make the engines of workers that were started again (all of them, then); they take up the state that is left."""
        if ranks := self.group.ranks_of(restarted):
            self.group.hang_up(ranks)
            self._meet()
            source = RESCUE if self._rescued else self._source
            self.trained = self._take_up(source) if source else -1
            self._rescued = False
            shutil.rmtree(job_dir() / RESCUE, ignore_errors=True)
            logger.info("train workers are back in the state after step %d", self.trained)

    def upload_weights(self, version: int) -> list[Future[Reply]]:
        """Begin the upload of every rank's shard."""
        timeout_s, grace_s = self._config.timeout_s("upload_weights"), self._config.timeout_s("rpc_grace")
        return self.group.call("upload_weights", "UploadWeightsError", timeout_s, grace_s=grace_s, version=version)

    def train_distributed_batch(self, batch: DistributedBatchMemory, step: int) -> dict[str, float]:
        """One training step over all ranks. The groups are those of the plan: a batch of another size is refused here."""
        config = self._config
        planned = torch.arange(config.prompts_per_step).repeat_interleave(config.samples_per_prompt)
        batch["group_id"] = planned
        shares = [share.state() for share in batch.chunk_by_ffd(config.samples_per_prompt, config.train_workers)]
        timeout_s = config.timeout_s("train_batch")
        replies = wait_all(self.group.call("train_batch", "TrainBatchError", timeout_s, shares, step=step))
        self.trained = step
        figures: dict[str, float] = replies[0][0]
        return {name: figures[name] for name in ("loss", "kl", "grad_norm")}

    def save(self, step: int, **kept: Any) -> None:
        """Have rank 0 write the latest checkpoint or, with `epoch`, one that is kept."""
        wait_all(self.group.call("save", "SaveError", self._config.timeout_s("save"), step=step, **kept))
        self._source = LATEST

    def _rescue(self, rank: int) -> bool:
        """Have one worker put its state down; whether it could."""
        timeout_s = self._config.timeout_s("save")
        try:
            wait_all(self.group.call("rescue", "SaveError", timeout_s, ranks=[rank], step=self.trained))
        except TrainEngineError:
            return False
        return True

    def _take_up(self, source: str) -> int:
        """Have every rank take up a checkpoint; its step, -1 for none. Raises TrainEngineError when they differ."""
        timeout_s = self._config.timeout_s("init")
        replies = wait_all(self.group.call("recover", "RecoverError", timeout_s, source=source))
        steps = [int(figures["step"]) for figures, _ in replies]
        if len(set(steps)) > 1:
            raise TrainEngineError("RecoverError", f"ranks took up checkpoints of different steps: {steps}")
        return steps[0]

    def _meet(self) -> None:
        """Have the engines made, and let the ranks meet at an address of the first one's."""
        self.group.create_engines()
        meeting = self.group.ask_first("rendezvous", "InitializeError", self._config.timeout_s("init"))
        self.group.initialize(**meeting)
