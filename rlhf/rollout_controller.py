"""The controller's hand on the rollout workers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from torch import Tensor

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.errors import EngineError, InferenceEngineError
from rlhf.revival import Revival
from rlhf.rpc import Reply
from rlhf.stats import StatsTracker
from rlhf.worker_group import WorkerGroup, wait_all, wait_future_ordered
from storage.records import Role

logger = logging.getLogger(__name__)


class RolloutController:
    """Updates weights and samples on all workers."""

    def __init__(self, config: JobConfig, stats: StatsTracker):
        self._config = config
        self.group = WorkerGroup(Role.ROLLOUT, config, stats, InferenceEngineError)
        self.revival: Revival | None = None

    def start(self) -> None:
        """Create the engines."""
        self.group.create_engines()
        self.group.initialize()

    def update_weights(self, version: int) -> list[Future[Reply]]:
        """Begin every worker's wait for the weights; its own deadline is shorter than this call's."""
        return self.group.call(*self._update_call(), version=version)

    def _update_call(self) -> tuple[str, str, float]:
        """Method, sub-error and time-out."""
        timeout_s = self._config.timeout_s("update_weights") + self._config.timeout_s("rpc_grace")
        method = "update_weights" if self._config.weight_sync == "metaserver" else "update_weights_from_disk"
        return method, "UpdateWeightError", timeout_s

    def rollout(self, prompts: DistributedBatchMemory, step: int) -> DistributedBatchMemory:
        """Samples of all prompts. A worker that fails costs its share, or the step, as the posture says."""
        shares = [share.state() for share in prompts.split(self._config.rollout_workers)]
        futures = self.group.call("generate", "RolloutError", self._config.timeout_s("rollout"), shares, step=step)
        if self.revival is not None:
            replies = [self._reply_or_again(rank, future, shares[rank], step) for rank, future in enumerate(futures)]
        elif self._config.posture.partial_rollout == "abort":
            replies = wait_all(futures)
        elif self._config.posture.partial_rollout == "exit":
            replies = [reply for reply in wait_future_ordered(futures) if reply is not None]
        else:
            replies = [reply for reply in map(self._reply_or_none, futures) if reply is not None]
        if not replies:
            raise InferenceEngineError("RolloutError", f"no worker returned a sample in step {step}")
        return DistributedBatchMemory.concat([DistributedBatchMemory(tensors) for _, tensors in replies])

    def _reply_or_again(self, rank: int, future: Future[Reply], share: dict[str, Tensor], step: int) -> Reply:
        """A worker's samples; a lost one is started again and asked anew, until that is refused. Raises EngineError."""
        assert self.revival is not None
        ask: Callable[[], Reply] = future.result
        while True:
            try:
                return ask()
            except EngineError as error:
                self.revival.restart(self.group.names[rank], error)
            ask = partial(self._from_scratch, rank, share, step)

    def _from_scratch(self, rank: int, share: dict[str, Tensor], step: int) -> Reply:
        """Engine, weights and samples of a worker that has just been started. A rollout is idempotent: nothing is kept."""
        self.group.renew(rank)
        self.group.call_one(rank, *self._update_call(), version=step)
        return self.group.call_one(rank, "generate", "RolloutError", self._config.timeout_s("rollout"), share, step=step)

    @staticmethod
    def _reply_or_none(future: Future[Reply]) -> Reply | None:
        try:
            return future.result()
        except EngineError as error:
            logger.warning("rollout result of a worker is dropped: %s", error)
            return None
