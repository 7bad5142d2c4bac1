"""The controller's hand on the rollout workers."""

from __future__ import annotations

import logging
from concurrent.futures import Future

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.errors import EngineError, InferenceEngineError
from rlhf.rpc import Reply
from rlhf.stats import StatsTracker
from rlhf.worker_group import WorkerGroup, wait_all
from storage.records import Role

logger = logging.getLogger(__name__)


class RolloutController:
    """Updates weights and samples on all workers."""

    def __init__(self, config: JobConfig, stats: StatsTracker):
        self._config = config
        self.group = WorkerGroup(Role.ROLLOUT, config, stats, InferenceEngineError)

    def start(self) -> None:
        """Create the engines."""
        self.group.create_engines()
        self.group.initialize()

    def update_weights(self, version: int) -> list[Future[Reply]]:
        """Begin every worker's wait for the weights; its own deadline is shorter than this call's."""
        timeout_s = self._config.timeout_s("update_weights") + self._config.timeout_s("rpc_grace")
        method = "update_weights" if self._config.weight_sync == "metaserver" else "update_weights_from_disk"
        return self.group.call(method, "UpdateWeightError", timeout_s, version=version)

    def rollout(self, prompts: DistributedBatchMemory, step: int) -> DistributedBatchMemory:
        """Samples of all prompts. A worker that fails costs its share, or the step, as the posture says."""
        shares = [share.state() for share in prompts.split(self._config.rollout_workers)]
        futures = self.group.call("generate", "RolloutError", self._config.timeout_s("rollout"), shares, step=step)
        if self._config.posture.partial_rollout == "abort":
            replies = wait_all(futures)
        else:
            replies = [reply for reply in map(self._reply_or_none, futures) if reply is not None]
        if not replies:
            raise InferenceEngineError("RolloutError", f"no worker returned a sample in step {step}")
        return DistributedBatchMemory.concat([DistributedBatchMemory(tensors) for _, tensors in replies])

    @staticmethod
    def _reply_or_none(future: Future[Reply]) -> Reply | None:
        try:
            return future.result()
        except EngineError as error:
            logger.warning("rollout result of a worker is dropped: %s", error)
            return None
